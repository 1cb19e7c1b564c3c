// The player below the list: what was made last, a button a sound, and its spectrogram with the place that is heard.
import { button, element, setIcon } from "./dom.js";
import { MIX } from "./made.js";
import { Playback } from "./playback.js";
import { drawSpectrogram } from "./spectrogram.js";

export class PlayerPanel {
  #shown = null; // {set, what, gains}
  #next = []; // [set, what] to be played after it
  sound = null; // what is heard: {rate, channels, url of the host's file if it is one}

  constructor(model) {
    this.model = model;
    this.playback = new Playback(() => this.#changed(), () => this.#goOn());
    this.chips = element("div", { className: "sounding-click-chips", role: "toolbar", ariaLabel: "Sounds" });
    this.again = button("play", "Play", () => this.#toggle());
    this.time = element("span", { className: "sounding-click-time" });
    this.picture = element("canvas", { className: "sounding-click-spectrogram" });
    this.picture.setAttribute("role", "img");
    this.picture.setAttribute("aria-label", "Spectrogram");
    this.head = element("i", { className: "sounding-click-head" });
    this.view = element("div", { className: "sounding-click-sound", onclick: (event) => this.#seek(event) });
    this.view.append(this.picture, this.head);
    const bar = element("div", { className: "sounding-click-transport" }, this.again, this.chips, this.time);
    this.root = element("div", { className: "sounding-click-player", hidden: true }, bar, this.view);
  }

  close() {
    this.#next = [];
    this.playback.close();
  }

  // Whether an object, by its place in the list, or MIX, is being heard.
  plays(what) {
    if (!this.#shown || !this.playback.playing) return false;
    const { set, what: shown } = this.#shown;
    return what === MIX ? shown === MIX : shown !== MIX && set.objects[shown].place === what;
  }

  stop() {
    this.#next = [];
    this.playback.stop();
  }

  // Play [set, number of a track, or MIX] one after the other.
  async play(sounds) {
    if (!sounds.length) return;
    const [[set, what], ...others] = sounds;
    this.stop();
    await this.show(set, what);
    this.#next = others;
    this.playback.play(0);
  }

  // Have a sound in the player, silent.
  async show(set, what) {
    this.#shown = { set, what, gains: this.#gainsOf(set) };
    await this.#load();
    this.root.hidden = false;
    this.#chip();
    this.#changed();
  }

  // Gains follow the list while a sound is heard.
  async sync() {
    if (!this.#shown) return;
    const gains = this.#gainsOf(this.#shown.set);
    if (String(gains) === String(this.#shown.gains)) return;
    this.#shown = { ...this.#shown, gains };
    await this.#load(true);
  }

  #gainsOf(set) {
    return set.objects.map(({ place, gain_db }) => this.model.state.objects[place]?.gain_db ?? gain_db);
  }

  async #load(keepPlace = false) {
    const asked = this.#shown;
    const sound = await asked.set.heard(asked.what, asked.gains);
    if (this.#shown !== asked) return; // another one by now
    this.sound = sound;
    this.playback.take(sound, { keepPlace });
    drawSpectrogram(this.picture, sound);
    this.picture.setAttribute("aria-label", `Spectrogram of ${nameOf(asked.set, asked.what)}`);
  }

  #chip() {
    const { set, what: shown } = this.#shown;
    const all = set.objects.length > 1 ? [...set.objects.keys(), MIX] : [0];
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
          this.play([[set, what]]).catch((error) => this.model.fail(error.message));
        });
        return chip;
      }),
    );
  }

  #toggle() {
    if (this.playback.playing) this.stop();
    else if (this.sound) this.playback.play();
  }

  #goOn() {
    if (this.#next.length) this.play(this.#next).catch((error) => this.model.fail(error.message));
  }

  #changed() {
    const { playing } = this.playback;
    setIcon(this.again, playing ? "stop" : "play", playing ? "Stop" : "Play");
    this.#follow();
    this.model.list.sync();
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
