// Sounds that were made, kept by all that decided them.
import { mixed, readSound, trackOf } from "./samples.js";

const KEPT = 24;
export const MIX = "mix";

export class MadeSounds {
  #sets = new Map(); // key -> set, the oldest first

  get(key) {
    return this.#sets.get(key) ?? null;
  }

  // Keep a set; files of a run take the place of a preview's.
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

// The sounds of one run: a track an object, and their mix. `gained` and `mix` are there where the graph itself has put
// gains to them: `savedGains`.
export class SoundSet {
  #read = new Map(); // file -> its samples

  constructor() {
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

  // What is to be heard of object number n of the set, or of all, as {rate, channels}: the samples of the graph's very
  // file where one has those gains (then with its `url`), else moved by them.
  async heard(what, gains) {
    const isSaved = String(gains) === String(this.savedGains);
    if (what === MIX && this.mix && isSaved) return this.#samples(this.mix);
    if (what !== MIX && this.gained && isSaved) return this.#samples(this.#one(this.gained, what));
    // Files that have gains already are moved from there.
    const moved = gains.map((gain, n) => gain - (this.tracks ? 0 : this.savedGains[n]));
    const files = this.tracks ?? this.gained;
    if (what !== MIX && moved.every((gain) => gain === 0)) return this.#samples(this.#one(files, what));
    const sounds = await Promise.all(gains.map((_, n) => this.#samples(this.#one(files, n))));
    return what === MIX ? mixed(sounds, moved) : trackOf(sounds, moved, what);
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
