// Plays samples: from any place, once or repeated, stopped, followed.

export class Playback {
  #context = null;
  #source = null; // what plays
  #sound = null;
  #from = 0; // seconds into the sound, at the context's time of #began
  #began = 0;
  #repeats = false; // from the end on with the beginning, sample by sample

  // onChange(): begun or stopped. onEnd(): the sound is over.
  constructor(onChange, onEnd) {
    this.onChange = onChange;
    this.onEnd = onEnd;
  }

  get playing() {
    return this.#source !== null;
  }

  get duration() {
    return this.#sound ? this.#sound.channels[0].length / this.#sound.rate : 0;
  }

  // Seconds into the sound.
  get time() {
    if (!this.#source) return this.#from;
    const time = this.#from + this.#context.currentTime - this.#began;
    return this.#repeats ? time % this.duration : Math.min(this.duration, time);
  }

  get repeats() {
    return this.#repeats;
  }

  // What plays is repeated from now on, or plays to its end.
  set repeats(repeats) {
    if (this.#source) {
      [this.#from, this.#began] = [this.time, this.#context.currentTime];
      this.#source.loop = repeats;
    }
    this.#repeats = repeats;
  }

  // Browsers let sound begin only in the course of a click: to be called there.
  allow(rate = this.#context?.sampleRate ?? 16000) {
    // The browser resamples well what a context at the sound's own rate plays, but only linearly a buffer of another rate.
    if (this.#context?.sampleRate !== rate) {
      this.#context?.close();
      this.#context = new AudioContext({ sampleRate: rate });
    }
    this.#context.resume().catch(() => {});
  }

  // Take another sound. `keepPlace`: it is the same sound with other gains, and goes on where it is.
  take(sound, { keepPlace = false } = {}) {
    const [time, playing] = [this.time, this.playing];
    this.stop();
    this.#sound = sound;
    this.#from = keepPlace ? time : 0;
    if (keepPlace && playing) this.play();
  }

  play(from = this.#from >= this.duration ? 0 : this.#from) {
    this.#drop();
    const { rate, channels } = this.#sound;
    this.allow(rate);
    const buffer = this.#context.createBuffer(channels.length, channels[0].length, rate);
    channels.forEach((samples, i) => buffer.copyToChannel(samples, i));
    const source = (this.#source = this.#context.createBufferSource());
    source.buffer = buffer;
    source.loop = this.#repeats;
    source.connect(this.#context.destination);
    source.onended = () => {
      if (this.#source !== source) return;
      this.#source = null;
      this.#from = this.duration;
      this.onChange();
      this.onEnd();
    };
    this.#from = from;
    this.#began = this.#context.currentTime;
    source.start(0, from);
    this.onChange();
  }

  stop() {
    this.#from = this.time;
    if (this.#drop()) this.onChange();
  }

  seek(time) {
    if (this.playing) this.play(time);
    else this.#from = time;
  }

  close() {
    this.#drop();
    this.#context?.close();
    this.#context = null;
  }

  #drop() {
    const source = this.#source;
    this.#source = null;
    source?.stop();
    source?.disconnect();
    return source !== null;
  }
}
