// Sounds that were made, kept by all that decided them.
import { mixed, readSound } from "./samples.js";

const KEPT = 24;
export const MIX = "mix";

export class MadeSounds {
  #sets = new Map(); // key -> set, the oldest first

  get(key) {
    return this.#sets.get(key) ?? null;
  }

  // Keep a set; files of a run take the place of a preview's.
  put(key, { places, names, colours, gains, files }) {
    const set = this.#sets.get(key) ?? new SoundSet(key);
    set.take({ places, names, colours, gains, files });
    this.#sets.delete(key);
    this.#sets.set(key, set);
    while (this.#sets.size > KEPT) this.#sets.delete(this.#sets.keys().next().value);
    return set;
  }

  drop(key) {
    this.#sets.delete(key);
  }
}

// The sounds of one run: a track an object, and their mix. `gained` and `mix` are there where the graph itself has put
// gains to them: `savedGains`.
export class SoundSet {
  #read = new Map(); // file -> its samples

  constructor(key) {
    this.key = key;
    this.tracks = this.gained = this.mix = null; // files, files, file
    this.savedGains = [];
  }

  take({ places, names, colours, gains, files: { tracks, gained, mix } }) {
    Object.assign(this, { places, names, colours });
    if (tracks) this.tracks = tracks;
    if (!gained && !mix) return;
    Object.assign(this, { gained: gained ?? null, mix: mix?.[0] ?? null, savedGains: gains });
  }

  // What is to be heard of object number n of the set, or of all, as {rate, channels}: the samples of the graph's very
  // file where one has those gains (then with its `url`), else moved by them.
  async heard(what, gains) {
    const all = gains.map((_, n) => n);
    const saved = (places) => places.every((n) => gains[n] === this.savedGains[n]);
    if (what === MIX) {
      if (this.mix && saved(all)) return this.#samples(this.mix);
      return mixed(await Promise.all(all.map((n) => this.#track(n))), this.#moved(all, gains));
    }
    if (this.#one(this.gained, what) && saved([what])) return this.#samples(this.#one(this.gained, what));
    const [gain] = this.#moved([what], gains);
    if (gain === 0) return this.#track(what);
    return mixed([await this.#track(what)], [gain]);
  }

  // Gains beside those that are in the files.
  #moved(places, gains) {
    return places.map((n) => gains[n] - (this.tracks ? 0 : this.savedGains[n]));
  }

  #track(n) {
    return this.#samples(this.#one(this.tracks ?? this.gained, n));
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
