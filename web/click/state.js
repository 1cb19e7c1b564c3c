// What is clicked, as the one string that workflows keep. nodes/click/state.py describes its form and checks it.

export const VERSION = 1;
export const GAINS = [-60, 24]; // dB
export const MAX_OBJECTS = 32;
export const MAX_TAKE = 999;
export const MAX_POINTS = 100;
const MAX_NAME = 100;
const PLACEHOLDER = /^Object \d+$/; // as in nodes/name.py
// Okabe and Ito's palette, which people with any colour vision can tell apart.
export const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#b3b3b3"];

export const emptyState = () => ({ version: VERSION, size: null, objects: [] });

export function newObject(state) {
  const used = new Set(state.objects.map((object) => object.colour));
  const colour = COLOURS.find((each) => !used.has(each)) ?? COLOURS[state.objects.length % COLOURS.length];
  const name = placeholder(state, state.objects.length + 1);
  return { name, auto: true, colour, on: true, gain_db: 0, positive: [], negative: [], box: null };
}

// A name for what has none.
function placeholder(state, number) {
  const names = new Set(state.objects.map((object) => object.name));
  let free = number;
  while (names.has(`Object ${free}`)) free += 1;
  return `Object ${free}`;
}

// Give an object the name that its mask was found to show, "" where nobody can tell; whether that is another one.
// Names that a person has typed stay.
export function giveName(state, object, name) {
  if (!object.auto || object.name === name || (!name && PLACEHOLDER.test(object.name))) return false;
  object.name = name || placeholder(state, state.objects.indexOf(object) + 1);
  return true;
}

export const cleanName = (name) => [...name.replace(/[\p{C}\p{Z}]+/gu, " ").trim()].slice(0, MAX_NAME).join("").trim();

export const clicked = (object) => object.positive.length + object.negative.length > 0 || object.box !== null;

// Whether anything says where the object is; points outside it alone do not.
export const hasPlace = (object) => object.positive.length > 0 || object.box !== null;

export function readState(text) {
  if (!text?.trim()) return emptyState();
  const state = JSON.parse(text);
  if (state?.version !== VERSION || !Array.isArray(state.objects)) {
    throw new Error(`it has version ${state?.version}, but ${VERSION} is expected`);
  }
  const point = ({ x, y }) => ({ x: finite(x), y: finite(y) });
  return {
    version: VERSION,
    size: state.size ? state.size.map(finite) : null,
    objects: state.objects.map((object) => ({
      name: String(object.name),
      ...(object.auto === true && { auto: true }),
      colour: object.colour ?? COLOURS[0],
      on: object.on ?? true,
      gain_db: finite(object.gain_db ?? 0),
      positive: (object.positive ?? []).map(point),
      negative: (object.negative ?? []).map(point),
      box: object.box ? object.box.map(finite) : null,
      ...(object.take && { take: finite(object.take) }),
    })),
  };
}

export const writeState = (state) => (state.objects.length ? JSON.stringify(state) : "");

// The same clicks on the same image in another size, [width, height].
export function scaled(state, size) {
  if (!state.size) return { ...state, size };
  const across = size[0] / state.size[0];
  const down = size[1] / state.size[1];
  const point = ({ x, y }) => ({ x: rounded(x * across), y: rounded(y * down) });
  return {
    ...state,
    size,
    objects: state.objects.map((object) => ({
      ...object,
      positive: object.positive.map(point),
      negative: object.negative.map(point),
      box: object.box && object.box.map((value, i) => rounded(value * (i % 2 ? down : across))),
    })),
  };
}

// Whether two sizes have the same aspect ratio, within SAME_SHAPE of nodes/click/state.py.
export function sameShape(a, b) {
  return !a || !b || Math.abs(a[0] / b[0] / (a[1] / b[1]) - 1) <= 0.02;
}

export const rounded = (value) => Math.round(value * 10) / 10;

function finite(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) throw new Error(`${JSON.stringify(value)} is not a number`);
  return value;
}
