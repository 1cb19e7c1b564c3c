// Draws a sound's spectrogram on a canvas.
const SIZE = 512; // samples per spectrum
const BANDS = 64; // rows, of equal width in mel
const COLUMNS = 360; // at most
const RANGE = 70; // dB, from the loudest down
// matplotlib's magma, at equal steps.
const COLOURS = [
  [0, 0, 4], [40, 17, 89], [114, 31, 129], [182, 54, 121], [241, 96, 93], [254, 176, 120], [252, 253, 191],
];

export function drawSpectrogram(canvas, { rate, channels }) {
  const samples = channels[0];
  const columns = Math.min(COLUMNS, Math.max(1, Math.floor(samples.length / 64)));
  const rows = bands(rate);
  const levels = Array.from({ length: columns }, (_, x) => {
    const power = spectrum(samples, Math.round(((x + 0.5) * samples.length) / columns - SIZE / 2));
    return rows.map(([low, high]) => Math.max(...power.subarray(low, high + 1)));
  });
  const top = 10 * Math.log10(Math.max(1e-10, ...levels.flat()));
  const image = new ImageData(columns, BANDS);
  levels.forEach((column, x) =>
    column.forEach((power, row) => {
      const share = Math.min(1, Math.max(0, 1 + (10 * Math.log10(power + 1e-20) - top) / RANGE));
      image.data.set([...colour(share), 255], ((BANDS - 1 - row) * columns + x) * 4);
    }),
  );
  Object.assign(canvas, { width: columns, height: BANDS });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function colour(share) {
  const place = share * (COLOURS.length - 1);
  const i = Math.min(COLOURS.length - 2, Math.floor(place));
  return COLOURS[i].map((value, c) => value + (place - i) * (COLOURS[i + 1][c] - value));
}

// First and last frequency of each row.
function bands(rate) {
  const mel = (hertz) => Math.log1p(hertz / 700);
  const top = Math.min(8000, rate / 2);
  const edge = (i) => (700 * Math.expm1((mel(top) * i) / BANDS) * SIZE) / rate;
  return Array.from({ length: BANDS }, (_, i) => {
    const low = Math.min(SIZE / 2 - 1, Math.floor(edge(i)));
    return [low, Math.max(low, Math.min(SIZE / 2 - 1, Math.ceil(edge(i + 1)) - 1))];
  });
}

// Power at SIZE / 2 frequencies around a place, with a Hann window: Cooley and Tukey's Fourier transform.
function spectrum(samples, start) {
  const re = new Float64Array(SIZE);
  const im = new Float64Array(SIZE);
  const bits = Math.log2(SIZE);
  for (let i = 0; i < SIZE; i += 1) {
    let to = 0;
    for (let bit = 0; bit < bits; bit += 1) to |= ((i >> bit) & 1) << (bits - 1 - bit);
    re[to] = (samples[start + i] ?? 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
  }
  for (let half = 1; half < SIZE; half *= 2) {
    for (let k = 0; k < half; k += 1) {
      const [c, s] = [Math.cos((-Math.PI * k) / half), Math.sin((-Math.PI * k) / half)];
      for (let i = k; i < SIZE; i += 2 * half) {
        const j = i + half;
        const [x, y] = [c * re[j] - s * im[j], s * re[j] + c * im[j]];
        [re[j], im[j]] = [re[i] - x, im[i] - y];
        [re[i], im[i]] = [re[i] + x, im[i] + y];
      }
    }
  }
  return re.subarray(0, SIZE / 2).map((value, i) => value * value + im[i] * im[i]);
}
