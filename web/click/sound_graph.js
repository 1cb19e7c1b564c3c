// The graph that the page would run, and the part of it that makes the sounds of one click node's objects.
import { app } from "../../../scripts/app.js";
import { annotated } from "./image.js";
import { clicked, readState, writeState } from "./state.js";

const OWN = "sounding_preview_"; // how ids of the nodes that are added begin
const SECONDS = 5; // of a sound when nothing in the graph makes one, as Sound This Object's own default
const [IMAGE, MASKS, NAMES, GAINS, TAKES] = [0, 1, 2, 3, 6]; // outputs of the click node
const MIXERS = ["SoundingMixTracks", "SoundingSoundscape"];
const PLACER = "SoundingSoundscape"; // the one of them whose tracks are more than the sounds with their gains
const [TRACKS, MIX] = [0, 1]; // its outputs
export const PREVIEWS = { tracks: `${OWN}tracks`, gained: `${OWN}gained`, mix: `${OWN}mix` };

// The graph that makes the sounds: the page's own, so that they are those of a run, with previews added. `only` is the
// number of the one object to switch on; without it all that are on sound. Gives {prompt, targets, key, objects, tell}:
// `key` holds everything that decides the sounds, `objects` are those that sound, each with its `place` in the list, in
// the order of the tracks, and `tell` are the nodes that may report on them.
export async function soundGraph({ node, reference, editor }, only = null) {
  const prompt = await pageGraph();
  const own = ownIn(prompt, node) ?? `${OWN}click`;
  prompt[own] ??= { class_type: "SoundingClick", inputs: { picture: annotated(reference), state: editor.text } };
  if (only !== null) {
    const objects = editor.state.objects.map((each, i) => ({ ...each, on: i === only }));
    const state = writeState({ ...editor.state, objects });
    prompt[own] = { ...prompt[own], inputs: { ...prompt[own].inputs, state } };
  }
  const source = soundSource(prompt, own) ?? addSource(prompt, own);
  const links = soundLinks(prompt, source);
  for (const [what, link] of Object.entries(links)) {
    prompt[PREVIEWS[what]] = { class_type: "PreviewAudio", inputs: { audio: link } };
  }
  const targets = Object.keys(links).map((what) => PREVIEWS[what]);
  return { prompt, targets, ...soundsOf(prompt, own, source, reference?.stamp) };
}

// The sounds that a finished run of the page has made of a node's objects, or null: {key, objects, tell, files}, where
// files are {tracks, gained, mix}.
export function soundsIn(prompt, outputs, node, stamp) {
  const own = ownIn(prompt, node);
  const source = own && soundSource(prompt, own);
  if (!source) return null;
  const wanted = soundLinks(prompt, source);
  const files = {};
  for (const [id, output] of Object.entries(outputs)) {
    const link = prompt[id]?.inputs?.audio;
    const what = isLink(link) && Object.keys(wanted).find((each) => isSame(wanted[each], link));
    if (what && output?.audio?.length) files[what] ??= output.audio;
  }
  if (!files.tracks && !files.gained) return null;
  return { ...soundsOf(prompt, own, source, stamp), files };
}

function soundsOf(prompt, own, source, stamp) {
  const { inputs } = prompt[own];
  const state = isLink(inputs.state) ? { objects: [] } : readState(inputs.state);
  const fed = inputs.positive_coords !== undefined || inputs.negative_coords !== undefined;
  const first = state.objects.findIndex((each) => each.on);
  const sounds = (each, i) => each.on && (clicked(each) || (fed && i === first));
  const objects = state.objects.map((each, place) => ({ ...each, place })).filter((each) => sounds(each, each.place));
  const mixer = mixerOf(prompt, source);
  const placed = places(prompt, mixer);
  if (placed) prompt = withoutGains(prompt, mixer); // as for other mixers, the player applies them
  const upstream = [...above(prompt, placed ? mixer : source[0])].sort();
  const used = (slot) => upstream.some((id) => linksOf(prompt[id]).some((link) => isSame(link, [own, slot])));
  const [names, gains, takes] = [used(NAMES), used(GAINS), used(TAKES)];
  const kept = (object) => {
    const { name, gain_db, positive, negative, box, take } = object;
    return [positive, negative, box, names && name, gains && gain_db, takes && (take ?? 0)];
  };
  const decides = upstream.map((id) => {
    if (id !== own || isLink(inputs.state)) return [id, prompt[id].class_type, prompt[id].inputs];
    return [id, { ...inputs, state: [state.size, objects.map(kept)] }, stamp];
  });
  return { key: JSON.stringify([decides, source]), objects, tell: upstream };
}

// What decides each sound that a prompt makes, or the part of it that the nodes `targets` need: the same keys, the same
// sounds. A node makes a sound if it has an AUDIO output and takes none in.
export function soundKeys(prompt, targets = Object.keys(prompt)) {
  const needed = new Set(targets.flatMap((id) => [...above(prompt, String(id))]));
  const slotOf = (id) => outputsOf(prompt[id].class_type).indexOf("AUDIO");
  const fromSound = ([id, slot]) => prompt[id] && outputsOf(prompt[id].class_type)[slot] === "AUDIO";
  const makers = [...needed].filter((id) => slotOf(id) >= 0 && !linksOf(prompt[id]).some(fromSound));
  return makers.map((id) => {
    const upstream = [...above(prompt, id)].sort();
    const own = upstream.find((each) => prompt[each].class_type === "SoundingClick");
    if (own) return soundsOf(prompt, own, [id, slotOf(id)]).key;
    return JSON.stringify(upstream.map((each) => [each, prompt[each].class_type, prompt[each].inputs]));
  });
}

// The checkpoint that makes the sounds of a node's objects, by its name in the loader's list: undefined is the starter,
// null a model that is not of this pack.
export async function soundingCheckpoint(node) {
  const prompt = await pageGraph();
  const own = ownIn(prompt, node);
  const source = own ? soundSource(prompt, own) : null;
  const ids = source ? [...above(prompt, source[0])] : Object.keys(prompt);
  const typed = (type) => ids.find((id) => prompt[id].class_type === type);
  const loader = typed("SoundingLoadModel");
  if (!loader) return source && !typed("SoundingThisObject") ? null : undefined;
  const { checkpoint } = prompt[loader].inputs;
  return typeof checkpoint === "string" ? checkpoint : null;
}

const SURENESS = "sounding_sureness"; // as in nodes/sureness.py

// How sure the model is of each object, [{sureness: 0..1, sure}], or null if the run did not report it.
export function surenessIn({ objects, tell }, outputs) {
  // The nodes that a node was expanded to have ids of its id, a full stop and more.
  const ours = Object.keys(outputs).filter((id) => tell.some((each) => id === each || id.startsWith(`${each}.`)));
  const told = ours.map((id) => outputs[id]?.[SURENESS]).find((each) => each?.length === objects.length);
  return told ?? null;
}

// The nearest AUDIO output downstream of the masks, as a link.
function soundSource(prompt, own) {
  const seen = new Set([own]);
  let level = consumers(prompt, (link) => isSame(link, [own, MASKS]));
  if (!level.length) level = consumers(prompt, (link) => isSame(link, [own, NAMES]));
  while (level.length) {
    for (const id of level) {
      const slot = outputsOf(prompt[id].class_type).indexOf("AUDIO");
      if (slot >= 0 && !MIXERS.includes(prompt[id].class_type)) return [id, slot];
      seen.add(id);
    }
    const before = new Set(level);
    level = consumers(prompt, (link) => before.has(String(link[0]))).filter((id) => !seen.has(id));
  }
  return null;
}

// Whether anything in the graph takes the picked takes.
export const usesTakes = (node) => Boolean(node.outputs?.[TAKES]?.links?.length);

// Add a node that makes sounds, where nothing in the graph makes any of the masks.
function addSource(prompt, own) {
  const inputs = { image: [own, IMAGE], mask: [own, MASKS], seconds: SECONDS, seed: 0 };
  const loader = Object.keys(prompt).find((id) => prompt[id].class_type === "SoundingLoadModel");
  if (loader) inputs.model = [loader, 0];
  prompt[`${OWN}sound`] = { class_type: "SoundingThisObject", inputs };
  return [`${OWN}sound`, 0];
}

const mixerOf = (prompt, source) =>
  consumers(prompt, (link) => isSame(link, source)).find((id) => MIXERS.includes(prompt[id].class_type));

// Whether a mixer makes tracks that cannot be had from the sounds and their gains alone.
const places = (prompt, mixer) => prompt[mixer]?.class_type === PLACER;

function withoutGains(prompt, mixer) {
  const { gains, ...inputs } = prompt[mixer].inputs;
  return { ...prompt, [mixer]: { ...prompt[mixer], inputs } };
}

// Where the sounds come from: those without gains, unless they are placed; those with gains, and the mix.
function soundLinks(prompt, source) {
  const mixer = mixerOf(prompt, source);
  const links = places(prompt, mixer) ? {} : { tracks: source };
  return mixer ? { ...links, gained: [mixer, TRACKS], mix: [mixer, MIX] } : links;
}

function outputsOf(type) {
  const data = LiteGraph.registered_node_types[type]?.nodeData;
  return data?.output ?? data?.outputs?.map((each) => each.type) ?? [];
}

const linksOf = ({ inputs }) => Object.values(inputs).filter(isLink);

const consumers = (prompt, wanted) => Object.keys(prompt).filter((id) => linksOf(prompt[id]).some(wanted));

// A node and all that it depends on, by their ids.
function above(prompt, id, found = new Set()) {
  if (!prompt[id] || found.has(id)) return found;
  found.add(id);
  for (const [origin] of linksOf(prompt[id])) above(prompt, String(origin), found);
  return found;
}

// The click node's id in the prompt; inside a subgraph it is the end of a path.
const ownIn = (prompt, node) =>
  Object.keys(prompt).find(
    (id) => prompt[id].class_type === "SoundingClick" && (id === String(node.id) || id.endsWith(`:${node.id}`)),
  );

// What the page would queue, without nodes that the host does not know.
async function pageGraph() {
  try {
    const { output } = await app.graphToPrompt();
    const known = Object.entries(output).filter(([, { class_type }]) => LiteGraph.registered_node_types[class_type]);
    const ids = new Set(known.map(([id]) => id));
    const whole = ([, { inputs }]) => Object.values(inputs).every((v) => !isLink(v) || ids.has(String(v[0])));
    return Object.fromEntries(known.filter(whole));
  } catch {
    return {}; // objects can be heard even where the graph cannot be queued
  }
}

const isLink = (value) => Array.isArray(value) && value.length === 2 && typeof value[1] === "number";
const isSame = (a, b) => String(a[0]) === String(b[0]) && a[1] === b[1];
