// Which image the node shows: always a reference to a file in one of the host's folders, {name, subfolder, type}.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const LOADERS = new Set(["LoadImage", "LoadImageOutput", "LoadImageMask"]);
const KINDS = ["input", "output", "temp"];
export const SHOWN = "sounding_click"; // as in nodes/click/node.py

// A reference out of "folder/name.png [output]", as dropdowns keep it.
export function parseReference(text) {
  if (typeof text !== "string" || !text.trim()) return null;
  const kind = KINDS.find((each) => text.endsWith(`[${each}]`));
  const path = kind ? text.slice(0, -kind.length - 2).trimEnd() : text;
  const cut = path.replaceAll("\\", "/").lastIndexOf("/");
  return { name: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type: kind ?? "input" };
}

export function annotated({ name, subfolder, type }) {
  return (subfolder ? `${subfolder}/${name}` : name) + (type === "input" ? "" : ` [${type}]`);
}

export const sameReference = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function viewURL({ name, subfolder, type, stamp }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename: name, subfolder, type, stamp: stamp ?? "" })}`);
}

// An image as the model gets it: without transparency, with the colours beneath.
export async function loadImage(reference) {
  const image = await loaded(viewURL(reference));
  if (!isTransparent(image)) return image;
  const opaque = await loaded(`${viewURL(reference)}&channel=rgb`).catch(() => image);
  // The host ignores the EXIF orientation of these.
  return opaque.naturalWidth === image.naturalWidth ? opaque : image;
}

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
  return image;
}

function isTransparent(image) {
  const scale = Math.min(1, 256 / Math.max(image.naturalWidth, image.naturalHeight));
  const reduced = (side) => Math.max(1, Math.round(side * scale));
  const [width, height] = [reduced(image.naturalWidth), reduced(image.naturalHeight)];
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data.some((value, i) => i % 4 === 3 && value < 250);
}

export const imageWidget = (node) => node.widgets?.find((widget) => widget.name === "picture");

// The number of the wanted input if something is connected to it, or -1.
export function connectedSlot(node, wanted) {
  const slot = node.inputs?.findIndex(wanted) ?? -1;
  return slot >= 0 && node.isInputConnected(slot) ? slot : -1;
}

export const isImageInput = (input) => input.name === "image" && !input.widget;

// {reference}, or {wait: what the user has to do first}
export function connectedImage(node) {
  const slot = connectedSlot(node, isImageInput);
  if (slot < 0) {
    const own = connectedSlot(node, (input) => input.widget?.name === "picture") < 0;
    const reference = own ? parseReference(imageWidget(node)?.value) : null;
    return reference ? { reference } : { wait: "Drop an image here, paste one, or choose a file." };
  }
  const origin = originOf(node, slot);
  const file = origin && LOADERS.has(origin.comfyClass ?? origin.type) && origin.mode !== 4;
  const reference = file ? parseReference(origin.widgets?.find((widget) => widget.name === "image")?.value) : null;
  if (reference) return { reference };
  const shown = node.soundingShown ?? app.nodeOutputs?.[String(node.id)]?.[SHOWN]?.[0];
  if (shown) return { reference: { name: shown.name, subfolder: shown.subfolder, type: shown.type } };
  return { wait: "Run the workflow once to see the connected image here." };
}

// The segmenter that the graph loads for the node, by its name in the loader's list; undefined for the starter's own.
export function segmenterName(node) {
  const slot = connectedSlot(node, (input) => input.name === "segmenter");
  const origin = slot >= 0 ? originOf(node, slot) : null;
  if (origin?.comfyClass !== "SoundingLoadSam") return undefined;
  return origin.widgets?.find((widget) => widget.name === "segmenter_name")?.value;
}

// The node that a link comes from, through reroutes.
function originOf(node, slot) {
  let origin = node.getInputNode?.(slot);
  for (let i = 0; i < 50 && origin && (origin.isVirtualNode || origin.type === "Reroute"); i += 1) {
    origin = origin.getInputNode?.(0);
  }
  return origin;
}

// Upload an image into the input folder and choose it.
export async function upload(node, file) {
  if (!file.type.startsWith("image/")) {
    const kind = file.type || "of an unknown type";
    throw new Error(`${file.name} is ${kind}, but an image is expected; choose a PNG, JPEG or WebP file.`);
  }
  try {
    (await createImageBitmap(file)).close();
  } catch {
    throw new Error(`${file.name} cannot be read as an image, but one is expected; choose another file.`);
  }
  const form = new FormData();
  form.append("image", file, file.name || "pasted.png");
  const response = await api.fetchApi("/upload/image", { method: "POST", body: form });
  if (!response.ok) {
    throw new Error(`${file.name} was refused by the server (${response.status}); choose another file.`);
  }
  const { name, subfolder } = await response.json();
  chooseImage(node, subfolder ? `${subfolder}/${name}` : name);
}

// Choose an image by its name in the list, which may not have it yet.
export function chooseImage(node, value) {
  const widget = imageWidget(node);
  const values = widget.options?.values;
  if (Array.isArray(values) && !values.includes(value)) values.push(value);
  widget.value = value;
  widget.callback?.(value);
  app.graph.setDirtyCanvas(true, true);
}
