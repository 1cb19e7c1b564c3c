// Example pictures from the pack, through the page, into the host's input folder.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const READERS = new Set(["LoadImage", "LoadImageMask", "SoundingClick"]); // their first widget names a picture
// The folder's name is the person's choice; it is a part of this file's own address.
const PACK = decodeURIComponent(new URL(import.meta.url).pathname.match(/\/extensions\/([^/]+)\//)[1]);

// Upload those pictures, and tell the names that they have there: another file of the same name stays as it is, and ours
// gets a number. A file with the same content is left alone.
export async function bringPictures(pictures) {
  const names = new Map(await Promise.all(pictures.map(async (name) => [name, await bring(name)])));
  if (![...names.values()].every(isListed)) await refreshLists();
  return names;
}

// The workflow with its pictures' names exchanged.
export function withNames(workflow, names) {
  for (const { type, widgets_values: values } of workflow.nodes) {
    if (READERS.has(type) && names.has(values?.[0])) values[0] = names.get(values[0]);
  }
}

async function bring(name) {
  const path = `/workflow_templates/${encodeURIComponent(PACK)}/input/${encodeURIComponent(name)}`;
  const found = await api.fetchApi(path);
  if (!found.ok) {
    throw new Error(`The example picture ${name} is not in the pack (${found.status}); install the pack again.`);
  }
  const form = new FormData();
  form.append("image", await found.blob(), name);
  const taken = await api.fetchApi("/upload/image", { method: "POST", body: form });
  if (!taken.ok) {
    throw new Error(`The example picture ${name} could not be put into the input folder (${taken.status}).`);
  }
  return (await taken.json()).name;
}

// Whether the lists of pictures that new nodes are made with have it.
function isListed(name) {
  return JSON.stringify(LiteGraph.registered_node_types.LoadImage?.nodeData?.input ?? {}).includes(JSON.stringify(name));
}

async function refreshLists() {
  if (app.reloadNodeDefs) await app.reloadNodeDefs(); // without a message
  else await app.refreshComboInNodes();
}
