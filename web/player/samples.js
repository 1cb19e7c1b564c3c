// Samples of sounds: read from the host's files, with gains applied, and mixed.
import { api } from "../../../scripts/api.js";

const CEILING = 10 ** (-1 / 20); // -1 dBTP, as sounding/audio/loudness.py
const OVERSAMPLED = 4; // ITU-R BS.1770-4, annex 2
const TAPS = 24; // samples on each side that an interpolated value comes from
const RATE = 48000; // of files in other formats than FLAC

const fileURL = ({ filename, subfolder, type }) =>
  api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

// The samples of one of the host's files: {url, rate, channels: one Float32Array per channel}.
export async function readSound(file) {
  const url = fileURL(file);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`The sound ${file.filename} is gone (${response.status}); press play again.`);
  const bytes = await response.arrayBuffer();
  const rate = flacRate(bytes) ?? RATE;
  // Decoding in a context of the file's own rate leaves its samples as they are.
  const sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  return { url, rate, channels };
}

function flacRate(bytes) {
  const view = new DataView(bytes);
  if (view.byteLength < 22 || view.getUint32(0) !== 0x664c6143) return null; // "fLaC"
  return view.getUint32(18) >>> 12; // 20 bits
}

// The sum of sounds with gains in dB, turned down as a whole where it would exceed the ceiling.
export function mixed(sounds, gains) {
  const channels = added(sounds, gains);
  return { rate: sounds[0].rate, channels: turned(channels, Math.max(...channels.map(truePeak))) };
}

// Sound number n with its gain; all tracks are turned down alike where the loudest of them would exceed the ceiling.
export function trackOf(sounds, gains, n) {
  const peaks = sounds.map((sound, i) => 10 ** (gains[i] / 20) * Math.max(...sound.channels.map(truePeak)));
  return { rate: sounds[n].rate, channels: turned(added([sounds[n]], [gains[n]]), Math.max(...peaks)) };
}

function added(sounds, gains) {
  const length = Math.max(...sounds.map(({ channels }) => channels[0].length));
  const count = Math.max(...sounds.map(({ channels }) => channels.length));
  const channels = Array.from({ length: count }, () => new Float32Array(length));
  sounds.forEach((sound, n) => {
    const factor = 10 ** (gains[n] / 20);
    channels.forEach((into, c) => {
      const from = sound.channels[Math.min(c, sound.channels.length - 1)];
      for (let i = 0; i < from.length; i += 1) into[i] += factor * from[i];
    });
  });
  return channels;
}

const turned = (channels, peak) =>
  peak > CEILING ? channels.map((samples) => samples.map((value) => (value * CEILING) / peak)) : channels;

// The highest absolute value, between the samples too.
export function truePeak(samples) {
  let peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const between = kernels();
  for (let i = 0; i < samples.length; i += 1) {
    // Values between small samples are small.
    if (Math.abs(samples[i]) < 0.4 * peak && Math.abs(samples[i + 1] ?? 0) < 0.4 * peak) continue;
    for (const kernel of between) {
      let value = 0;
      for (let k = 0; k < kernel.length; k += 1) value += kernel[k] * (samples[i + k - TAPS + 1] ?? 0);
      peak = Math.max(peak, Math.abs(value));
    }
  }
  return peak;
}

let made = null;

// Windowed sinc functions a quarter, a half and three quarters of the way from one sample to the next.
function kernels() {
  made ??= Array.from({ length: OVERSAMPLED - 1 }, (_, n) =>
    Float64Array.from({ length: 2 * TAPS }, (__, k) => {
      const x = Math.PI * (k - TAPS + 1 - (n + 1) / OVERSAMPLED);
      return (Math.sin(x) / x) * (0.5 + 0.5 * Math.cos(x / TAPS));
    }),
  );
  return made;
}
