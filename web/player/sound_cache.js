// Sounds that were made, kept under everything that decided them.
import { mixed, readSound, trackOf } from "./samples.js";

const KEPT = 24;
export const MIX = "mix";

export class SoundCache {
  #sets = new Map(); // key -> set, the oldest first

  get(key) {
    return this.#sets.get(key) ?? null;
  }

  // Keep a set; files of a run replace those of a preview.
  put({ key, objects }, files) {
    const set = this.#sets.get(key) ?? new SoundSet();
    set.take(objects, files);
    this.#sets.delete(key);
    this.#sets.set(key, set);
    while (this.#sets.size > KEPT) this.#sets.delete(this.#sets.keys().next().value);
    return set;
  }

  drop(key) {
    this.#sets.delete(key);
  }
}

// The sounds of one run: one track per object, and their mix. Where the graph itself applies gains, `gained` and `mix`
// are its files with those, `savedGains`.
export class SoundSet {
  #read = new Map(); // file -> its samples

  // mixable: whether its sounds are tracks that can be heard together.
  constructor({ mixable = true } = {}) {
    this.mixable = mixable;
    this.tracks = this.gained = this.mix = null; // files, files, file
    this.savedGains = [];
  }

  // `objects` in the order of the tracks, each with its place in the list, name, colour and gain_db.
  take(objects, { tracks, gained, mix }) {
    this.objects = objects;
    if (tracks) this.tracks = tracks;
    if (!gained && !mix) return;
    const savedGains = objects.map((each) => each.gain_db);
    Object.assign(this, { gained: gained ?? null, mix: mix?.[0] ?? null, savedGains });
  }

  // Samples of track number `what`, or of MIX, with gains in dB, as {rate, channels}: those of the graph's own file, with
  // its `url`, if one has these gains, else computed here.
  async samplesOf(what, gains) {
    const isSaved = String(gains) === String(this.savedGains);
    if (what === MIX && this.mix && isSaved) return this.#samples(this.mix);
    if (what !== MIX && this.gained && isSaved) return this.#samples(this.#one(this.gained, what));
    // Files that have gains already are changed by the difference.
    const changes = gains.map((gain, n) => gain - (this.tracks ? 0 : this.savedGains[n]));
    const files = this.tracks ?? this.gained;
    if (what !== MIX && changes.every((gain) => gain === 0)) return this.#samples(this.#one(files, what));
    const sounds = await Promise.all(gains.map((_, n) => this.#samples(this.#one(files, n))));
    return what === MIX ? mixed(sounds, changes) : trackOf(sounds, changes, what);
  }

  // A graph may make a single sound of several objects.
  #one(files, n) {
    return files && (files[n] ?? files[0]);
  }

  #samples(file) {
    if (!this.#read.has(file)) this.#read.set(file, readSound(file));
    return this.#read.get(file);
  }
}
