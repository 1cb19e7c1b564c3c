// The player: one button per sound of a set, the spectrogram of the one that is shown, and where it is playing.
import { addBaseStyle, addStyle, button, element, setIcon } from "../page/elements.js";
import { MIX } from "./sound_cache.js";
import { Playback } from "./playback.js";
import { drawSpectrogram } from "./spectrogram.js";

// A sound is [set, what]: a SoundSet with the number of one of its tracks, or MIX.
export class Player {
  #shown = null; // {set, what, gains}
  #next = []; // sounds to be played after it
  #loading = null; // its samples, on their way
  #begins = 0; // sounds that will play once their samples are there
  #repeats = false; // whether a single sound begins again at its end, as loops do
  sound = null; // its samples: {rate, channels, url of the host's file if it is one}

  // gainOf(place): the gain in dB of an object of the list, undefined if there is none. onChange(): begun or stopped.
  // fail(text): tell the user.
  constructor({ gainOf, onChange, fail }) {
    Object.assign(this, { gainOf, onChange, fail });
    addBaseStyle();
    addStyle(new URL("./player.css", import.meta.url));
    this.playback = new Playback(() => this.#changed(), () => this.#playNext());
    this.chips = element("div", { className: "sounding-click-chips", role: "toolbar", ariaLabel: "Sounds" });
    this.again = button("play", "Play", () => this.#toggle());
    this.repeat = button("repeat", "Repeat", () => this.#setRepeats(!this.#repeats), { "aria-pressed": "false" });
    this.time = element("span", { className: "sounding-click-time" });
    this.spectrogram = element("canvas", { className: "sounding-click-spectrogram" });
    this.spectrogram.setAttribute("role", "img");
    this.spectrogram.setAttribute("aria-label", "Spectrogram");
    this.head = element("i", { className: "sounding-click-head" });
    this.view = element("div", { className: "sounding-click-sound", onclick: (event) => this.#seek(event) });
    this.view.append(this.spectrogram, this.head);
    const bar = element("div", { className: "sounding-click-transport" }, this.again, this.repeat, this.chips, this.time);
    this.root = element("div", { className: "sounding-click-player", hidden: true }, bar, this.view);
  }

  close() {
    this.#next = [];
    this.playback.close();
  }

  // Show nothing.
  clear() {
    this.stop();
    this.#shown = this.sound = null;
    this.root.hidden = true;
  }

  // Whether an object, by its place in the list, or MIX, is playing.
  plays(what) {
    if (!this.#shown || !this.playback.playing) return false;
    const { set, what: shown } = this.#shown;
    return what === MIX ? shown === MIX : shown !== MIX && set.objects[shown].place === what;
  }

  // Whether something is playing or about to.
  get busy() {
    return this.playback.playing || this.#begins > 0;
  }

  stop() {
    this.#next = [];
    this.playback.stop();
  }

  // Play sounds one after the other.
  async play(sounds) {
    if (!sounds.length) return;
    const [[set, what], ...others] = sounds;
    this.stop();
    this.#begins += 1;
    try {
      if (!(await this.show(set, what))) return;
    } finally {
      this.#begins -= 1;
    }
    this.#next = others;
    this.playback.repeats = this.#repeats && !others.length;
    this.playback.play(0);
  }

  // Show a sound without playing it. False if another one was asked for before it was there.
  async show(set, what) {
    this.#shown = { set, what, gains: this.#gainsOf(set) };
    await this.#load();
    await this.#loading; // gains may have moved meanwhile
    if (this.#shown?.set !== set || this.#shown.what !== what) return false;
    this.root.hidden = false;
    this.#showChips();
    this.#changed();
    return true;
  }

  // Follow the list's gains, also while a sound plays.
  async sync() {
    if (!this.#shown) return;
    const gains = this.#gainsOf(this.#shown.set);
    if (String(gains) === String(this.#shown.gains)) return;
    this.#shown = { ...this.#shown, gains };
    await this.#load(true);
  }

  #gainsOf(set) {
    return set.objects.map(({ place, gain_db }) => this.gainOf(place) ?? gain_db);
  }

  #load(keepPlace = false) {
    return (this.#loading = this.#take(keepPlace));
  }

  async #take(keepPlace) {
    const asked = this.#shown;
    const sound = await asked.set.samplesOf(asked.what, asked.gains);
    if (this.#shown !== asked) return; // another one by now
    this.sound = sound;
    this.playback.take(sound, { keepPlace });
    drawSpectrogram(this.spectrogram, sound);
    this.spectrogram.setAttribute("aria-label", `Spectrogram of ${nameOf(asked.set, asked.what)}`);
  }

  #showChips() {
    const { set, what: shown } = this.#shown;
    const all = [...set.objects.keys(), ...(set.mixable && set.objects.length > 1 ? [MIX] : [])];
    this.chips.replaceChildren(
      ...all.map((what) => {
        const name = nameOf(set, what);
        const chip = element("button", { type: "button", className: "sounding-click-chip", textContent: name });
        chip.title = `Play ${name}`;
        chip.setAttribute("aria-label", `Play ${name}`);
        chip.setAttribute("aria-pressed", String(what === shown));
        chip.style.setProperty("--colour", what === MIX ? "var(--ink)" : set.objects[what].colour);
        chip.addEventListener("click", () => {
          this.playback.allow();
          this.play([[set, what]]).catch((error) => this.fail(error.message));
        });
        return chip;
      }),
    );
  }

  #toggle() {
    if (this.playback.playing) this.stop();
    else if (this.sound) this.playback.play();
  }

  #setRepeats(repeats) {
    this.#repeats = repeats;
    this.playback.repeats = repeats && !this.#next.length;
    this.repeat.setAttribute("aria-pressed", String(repeats));
  }

  #playNext() {
    if (this.#next.length) this.play(this.#next).catch((error) => this.fail(error.message));
  }

  #changed() {
    const { playing } = this.playback;
    setIcon(this.again, playing ? "stop" : "play", playing ? "Stop" : "Play");
    this.#follow();
    this.onChange();
  }

  #follow() {
    const { time, duration, playing } = this.playback;
    this.head.style.left = `${100 * (duration ? time / duration : 0)}%`;
    this.time.textContent = `${time.toFixed(1)} / ${duration.toFixed(1)} s`;
    if (playing) requestAnimationFrame(() => this.#follow());
  }

  #seek(event) {
    const box = this.view.getBoundingClientRect();
    this.playback.seek((this.playback.duration * (event.clientX - box.left)) / box.width);
    this.#follow();
  }
}

const nameOf = (set, what) => (what === MIX ? "mix" : set.objects[what].name);
