// Which picture the node shows: always a reference to a file in the host's folders.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const LOADERS = new Set(["LoadImage", "LoadImageOutput", "LoadImageMask"]);
const KINDS = ["input", "output", "temp"];
export const SHOWN = "sounding_click"; // as in nodes/click/node.py

// "folder/name.png [output]" as dropdowns keep it.
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

// A picture as the model sees it: what is transparent has colours too.
export async function loadPicture(reference) {
  const image = await loaded(viewURL(reference));
  if (!isTransparent(image)) return image;
  const opaque = await loaded(`${viewURL(reference)}&channel=rgb`).catch(() => image);
  // The host does not turn it as its EXIF says.
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
  const [width, height] = [image.naturalWidth, image.naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data.some((value, i) => i % 4 === 3 && value < 250);
}

export const pictureWidget = (node) => node.widgets?.find((widget) => widget.name === "picture");

// The number of the input that something is connected to, or -1.
export function connected(node, wanted) {
  const slot = node.inputs?.findIndex(wanted) ?? -1;
  return slot >= 0 && node.isInputConnected(slot) ? slot : -1;
}

export const isPictureInput = (input) => input.name === "image" && !input.widget;

// {picture} or {wait: a sentence}
export function currentPicture(node) {
  const slot = connected(node, isPictureInput);
  if (slot < 0) {
    const own = connected(node, (input) => input.widget?.name === "picture") < 0;
    const reference = own ? parseReference(pictureWidget(node)?.value) : null;
    return reference ? { picture: reference } : { wait: "Drop a picture here, paste one, or choose a file." };
  }
  const origin = originOf(node, slot);
  const file = origin && LOADERS.has(origin.comfyClass ?? origin.type) && origin.mode !== 4;
  const reference = file ? parseReference(origin.widgets?.find((widget) => widget.name === "image")?.value) : null;
  if (reference) return { picture: reference };
  const shown = node.soundingShown ?? nodeOutput(node)?.[SHOWN]?.[0];
  if (shown) return { picture: { name: shown.name, subfolder: shown.subfolder, type: shown.type } };
  return { wait: "Run the workflow once to see the connected picture here." };
}

// The segmenter that the graph loads for the node, as the loader's list names it; undefined for the one in the box.
export function currentSegmenter(node) {
  const slot = connected(node, (input) => input.name === "segmenter");
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

function nodeOutput(node) {
  return app.nodeOutputs?.[String(node.id)];
}

// Upload a picture into the input folder and choose it.
export async function upload(node, file) {
  if (!file.type.startsWith("image/")) {
    throw new Error(`${file.name} is ${file.type || "of an unknown type"}, but a picture is expected; choose a PNG, JPEG or WebP file.`);
  }
  try {
    (await createImageBitmap(file)).close();
  } catch {
    throw new Error(`${file.name} cannot be read as a picture, but one is expected; choose another file.`);
  }
  const form = new FormData();
  form.append("image", file, file.name || "pasted.png");
  const response = await api.fetchApi("/upload/image", { method: "POST", body: form });
  if (!response.ok) throw new Error(`${file.name} was not taken by the server (${response.status}); choose another file.`);
  const { name, subfolder } = await response.json();
  const value = subfolder ? `${subfolder}/${name}` : name;
  const widget = pictureWidget(node);
  const values = widget.options?.values;
  if (Array.isArray(values) && !values.includes(value)) values.push(value);
  widget.value = value;
  widget.callback?.(value);
  app.graph.setDirtyCanvas(true, true);
}
