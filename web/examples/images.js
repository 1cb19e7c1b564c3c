// Copies example images from the pack into the host's input folder, through the page.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const READERS = new Set(["LoadImage", "LoadImageMask", "SoundingClick"]); // their first widget names an image
// The name of the pack's folder is the user's choice; it is a part of this file's own address.
const PACK = decodeURIComponent(new URL(import.meta.url).pathname.match(/\/extensions\/([^/]+)\//)[1]);

// Upload images, and return the names that they got there: where another file has the name already, ours gets a number.
// A file with the same content is left alone.
export async function uploadImages(images) {
  const names = new Map(await Promise.all(images.map(async (name) => [name, await upload(name)])));
  if (![...names.values()].every(isListed)) await refreshLists();
  return names;
}

// Replace the names of images in a workflow.
export function withNames(workflow, names) {
  for (const { type, widgets_values: values } of workflow.nodes) {
    if (READERS.has(type) && names.has(values?.[0])) values[0] = names.get(values[0]);
  }
}

async function upload(name) {
  const path = `/workflow_templates/${encodeURIComponent(PACK)}/input/${encodeURIComponent(name)}`;
  const found = await api.fetchApi(path);
  if (!found.ok) {
    throw new Error(`The example image ${name} is not in the pack (${found.status}); install the pack again.`);
  }
  const form = new FormData();
  form.append("image", await found.blob(), name);
  const taken = await api.fetchApi("/upload/image", { method: "POST", body: form });
  if (!taken.ok) {
    throw new Error(`The example image ${name} could not be put into the input folder (${taken.status}).`);
  }
  return (await taken.json()).name;
}

// Whether it is in the lists of images that new nodes are made with.
function isListed(name) {
  const { input = {} } = LiteGraph.registered_node_types.LoadImage?.nodeData ?? {};
  return JSON.stringify(input).includes(JSON.stringify(name));
}

async function refreshLists() {
  if (app.reloadNodeDefs) await app.reloadNodeDefs(); // without a message
  else await app.refreshComboInNodes();
}
