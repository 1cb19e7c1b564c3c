// Masks of clicked objects from the server: one request at a time, always for the newest clicks.
import { api } from "../../../scripts/api.js";
import { hasPlace } from "./state.js";

const KEPT = 64;
const RETRY = 2000; // ms, while the server does not answer

export class Masks {
  #known = new Map(); // image and clicks -> mask
  #wanted = null;
  #busy = false;
  #timer = null;
  #closed = false;
  #again = () => this.#run();

  // onChange(): draw again. onStatus({busy}, {error} or {}): tell the user. checkpoint(): the model that makes the sounds,
  // by its name in the loader's list; undefined is the starter, null another pack's.
  constructor({ onChange, onStatus, checkpoint }) {
    Object.assign(this, { onChange, onStatus, checkpoint });
    api.addEventListener("reconnected", this.#again);
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    api.removeEventListener("reconnected", this.#again);
  }

  // The mask of an object as it is clicked now, or null until the server has answered. Never that of other clicks.
  of(reference, object, size) {
    return this.#known.get(keyOf(reference, object, size)) ?? null;
  }

  // Ask for all masks of a state that are not known yet.
  want(reference, state) {
    this.#wanted = reference && state.size ? { reference, state } : null;
    this.#run();
  }

  async #run() {
    clearTimeout(this.#timer);
    if (this.#busy || this.#closed) return;
    this.#busy = true;
    try {
      for (let missing = this.#missing(); missing.length && !this.#closed; missing = this.#missing()) {
        this.onStatus({ busy: true });
        await this.#ask(this.#wanted, missing);
        this.onChange();
      }
      this.onStatus({});
    } catch (error) {
      if (error.refused) this.#wanted = null;
      else this.#timer = setTimeout(this.#again, RETRY);
      this.onStatus({ error: error.status ? error.message : "The server does not answer; trying again." });
    } finally {
      this.#busy = false;
    }
  }

  #missing() {
    if (!this.#wanted) return [];
    const { reference, state } = this.#wanted;
    return state.objects.filter((object) => hasPlace(object) && !this.of(reference, object, state.size));
  }

  async #ask({ reference, state }, objects) {
    const started = performance.now();
    const { name, subfolder, type, segmenter } = reference;
    const checkpoint = await this.checkpoint();
    const response = await api.fetchApi("/sounding/click", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ picture: { name, subfolder, type }, state: { ...state, objects }, segmenter, checkpoint }),
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) {
      const error = new Error(answer.error ?? `The server answered ${response.status}; its log says why.`);
      error.status = response.status;
      error.refused = response.status !== 429 && response.status !== 503;
      throw error;
    }
    await Promise.all(
      objects.map(async (object, i) => {
        const key = keyOf(reference, object, state.size);
        const { named } = answer.masks[i];
        const mask = await decoded(answer.masks[i]);
        this.#known.set(key, { ...mask, named: named && { ...named, vocabulary: answer.vocabulary } });
      }),
    );
    while (this.#known.size > KEPT) this.#known.delete(this.#known.keys().next().value);
    performance.measure("sounding-click-answer", {
      start: started,
      end: performance.now(),
      detail: { server: answer.milliseconds, naming: answer.naming_milliseconds, objects: objects.length },
    });
  }
}

function keyOf(reference, { positive, negative, box }, size) {
  return JSON.stringify([reference, size, positive, negative, box]);
}

// The mask as the alpha channel of a canvas, and its rim as that of another; `share` of the image is covered.
async function decoded({ png, score }) {
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const { width, height } = bitmap;
  const fill = new OffscreenCanvas(width, height);
  const context = fill.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const rim = new ImageData(width, height);
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[(y * width + x) * 4 + 3] > 127;
  let covered = 0;
  for (let y = 0, i = 3; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, i += 4) {
      covered += data[i];
      if (data[i] > 127 && !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1))) {
        rim.data[i] = 255;
      }
    }
  }
  const edge = new OffscreenCanvas(width, height);
  edge.getContext("2d").putImageData(rim, 0, 0);
  return { fill, edge, score, share: covered / 255 / (width * height), tints: new Map() };
}

// A mask and its rim, both filled with a colour.
export function tinted(mask, colour) {
  if (!mask.tints.has(colour)) {
    const made = [mask.fill, mask.edge].map((alpha) => {
      const canvas = new OffscreenCanvas(alpha.width, alpha.height);
      const context = canvas.getContext("2d");
      context.drawImage(alpha, 0, 0);
      context.globalCompositeOperation = "source-in";
      context.fillStyle = colour;
      context.fillRect(0, 0, alpha.width, alpha.height);
      return canvas;
    });
    mask.tints.clear();
    mask.tints.set(colour, made);
  }
  return mask.tints.get(colour);
}
