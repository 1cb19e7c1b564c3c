// Hear one object: a small graph of its own through the host's queue, and a player with the sound's spectrogram.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { element } from "./dom.js";
import { annotated } from "./picture.js";
import { writeState } from "./state.js";

const SECONDS = 4; // at most, of a preview
const IDS = { click: "sounding_preview_click", sound: "sounding_preview_sound" };
const OUTPUTS = { audio: "sounding_preview_audio", picture: "sounding_preview_picture" };
const POLL = 1000; // ms, between the host's own messages

export class Player {
  #prompt = null; // id of the prompt under way
  #context = null;

  constructor(model) {
    this.model = model;
    this.making = null; // index of the object whose sound is being made
    this.title = element("span", { className: "sounding-click-title" });
    this.audio = element("audio", { controls: true, preload: "auto" });
    this.picture = element("img", { alt: "", className: "sounding-click-spectrogram" });
    this.head = element("i", { className: "sounding-click-head" });
    const shown = element("div", { className: "sounding-click-sound", onclick: (event) => this.#seek(event) });
    shown.append(this.picture, this.head);
    this.root = element("div", { className: "sounding-click-player", hidden: true }, this.title, shown, this.audio);
    this.audio.addEventListener("play", () => this.#follow());
    this.audio.addEventListener("seeked", () => this.#follow());
  }

  // Make the object's sound and play it; again to stop.
  async play(index) {
    if (this.making !== null) {
      await this.#cancel();
      return;
    }
    const object = this.model.state.objects[index];
    this.making = index;
    // Sound may only start from a click: this element is allowed to from now on.
    this.#context ??= this.#amplifier();
    this.#context?.context.resume().catch(() => {});
    this.model.changed();
    try {
      this.model.say(`Making the sound of ${object.name} …`);
      const outputs = await this.#run(index);
      if (!outputs) {
        this.model.say("Stopped");
        return;
      }
      this.#show(object, outputs);
      this.model.say(`This is ${object.name}`);
    } catch (error) {
      this.model.fail(error.message);
    } finally {
      this.making = this.#prompt = null;
      this.model.changed();
    }
  }

  close() {
    this.audio.pause();
    this.#context?.context.close();
    this.#context = null;
  }

  // Players can only be made quieter: the gain has a part of its own. Null where the browser has no sound device.
  #amplifier() {
    try {
      const context = new AudioContext();
      const gain = context.createGain();
      context.createMediaElementSource(this.audio).connect(gain).connect(context.destination);
      return { context, gain };
    } catch {
      return null;
    }
  }

  #show(object, { audio, picture }) {
    const url = ({ filename, subfolder, type }) =>
      api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
    this.root.hidden = false;
    this.title.textContent = object.name;
    this.title.style.setProperty("--colour", object.colour);
    this.picture.src = url(picture);
    this.picture.alt = `Spectrogram of ${object.name}`;
    this.audio.src = url(audio);
    if (this.#context) this.#context.gain.gain.value = 10 ** (object.gain_db / 20);
    this.audio.play().catch(() => {}); // the browser may want another click: the player shows
  }

  #follow() {
    const { currentTime, duration } = this.audio;
    this.head.style.left = `${100 * (duration ? currentTime / duration : 0)}%`;
    if (!this.audio.paused) requestAnimationFrame(() => this.#follow());
  }

  #seek(event) {
    const box = event.currentTarget.getBoundingClientRect();
    if (this.audio.duration) this.audio.currentTime = (this.audio.duration * (event.clientX - box.left)) / box.width;
  }

  async #cancel() {
    const prompt_id = this.#prompt;
    if (!prompt_id) return;
    const post = (path, body) =>
      api.fetchApi(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
    await post("/queue", { delete: [prompt_id] });
    await post("/interrupt", { prompt_id });
  }

  // {audio, picture} as files of the host, or null when it was stopped.
  async #run(index) {
    const prompt = await promptFor(this.model, index);
    const response = await api.fetchApi("/prompt", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        client_id: api.clientId,
        prompt,
        // The page's own graph comes along unrun, or the host would forget what it has made for it.
        partial_execution_targets: Object.values(OUTPUTS),
      }),
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(refusal(answer) ?? `The queue answered ${response.status}; the server's log says why.`);
    this.#prompt = answer.prompt_id;
    const entry = await this.#finished(answer.prompt_id);
    if (!entry) return null;
    if (entry.status?.status_str === "error") {
      const [kind, data] = entry.status.messages.at(-1);
      if (kind === "execution_interrupted") return null;
      throw new Error(data.exception_message?.trim() || "The sound could not be made; the server's log says why.");
    }
    const audio = entry.outputs[OUTPUTS.audio]?.audio?.[0];
    const picture = entry.outputs[OUTPUTS.picture]?.images?.[0];
    if (!audio || !picture) throw new Error("The sound was made but not found; press play again.");
    return { audio, picture };
  }

  // The prompt's history entry; null when it left the queue without one.
  async #finished(promptId) {
    for (let missing = 0; missing < 3; ) {
      await this.#news(promptId);
      try {
        const history = await (await api.fetchApi(`/history/${promptId}`)).json();
        if (history[promptId]) return history[promptId];
        const queue = await (await api.fetchApi("/queue")).json();
        const there = [...queue.queue_running, ...queue.queue_pending].some((item) => item[1] === promptId);
        missing = there ? 0 : missing + 1;
      } catch {
        this.model.say("The server does not answer; waiting …");
      }
    }
    return null;
  }

  // Wait for the host to say something of a prompt, or for a while.
  #news(promptId) {
    return new Promise((resolve) => {
      const kinds = ["execution_success", "execution_error", "execution_interrupted", "reconnected", "progress"];
      const done = () => {
        clearTimeout(timer);
        for (const kind of kinds) api.removeEventListener(kind, hear);
        resolve();
      };
      const hear = ({ type, detail }) => {
        if (detail?.prompt_id !== undefined && detail.prompt_id !== promptId) return;
        if (type !== "progress") done();
        else if (detail.max) this.model.say(`Making the sound: ${Math.round((100 * detail.value) / detail.max)} %`);
      };
      const timer = setTimeout(done, POLL);
      for (const kind of kinds) api.addEventListener(kind, hear);
    });
  }
}

function refusal({ error, node_errors }) {
  const first = Object.values(node_errors ?? {})[0]?.errors?.[0];
  return [first?.message ?? error?.message ?? error, first?.details].filter(Boolean).join(": ") || null;
}

async function promptFor(model, index) {
  const kept = await pageGraph();
  const { state } = model;
  const objects = state.objects.map((each, i) => ({ ...each, on: i === index }));
  const own = Object.keys(kept).find((id) => isSelf(id, model.node) && kept[id].class_type === "SoundingClick");
  const near = settings(kept, own);
  // Item i of a batch is drawn from seed + i: the preview is what the whole run makes of this object.
  const place = state.objects.slice(0, index).filter((each) => each.on && each.positive.length + !!each.box > 0).length;
  const seed = typeof near.seed === "number" ? near.seed + place : (near.seed ?? place);
  const seconds = typeof near.seconds === "number" ? Math.min(near.seconds, SECONDS) : SECONDS;
  const click = { picture: annotated(model.picture), state: writeState({ ...state, objects }) };
  if (own && kept[own].inputs.segmenter) click.segmenter = kept[own].inputs.segmenter;
  const sound = { image: [IDS.click, 0], mask: [IDS.click, 1], seconds, seed };
  for (const name of ["model", "steps", "cfg"]) if (near[name] !== undefined) sound[name] = near[name];
  return {
    ...kept,
    [IDS.click]: { class_type: "SoundingClick", inputs: click },
    [IDS.sound]: { class_type: "SoundingThisObject", inputs: sound },
    [OUTPUTS.audio]: { class_type: "PreviewAudio", inputs: { audio: [IDS.sound, 0] } },
    [OUTPUTS.picture]: { class_type: "PreviewImage", inputs: { images: [IDS.sound, 1] } },
  };
}

const isSelf = (id, node) => id === String(node.id) || id.endsWith(`:${node.id}`);

// What the page would queue, as far as the host knows its nodes.
async function pageGraph() {
  try {
    const { output } = await app.graphToPrompt();
    const known = Object.entries(output).filter(([, { class_type }]) => LiteGraph.registered_node_types[class_type]);
    const ids = new Set(known.map(([id]) => id));
    const whole = ([, { inputs }]) => Object.values(inputs).every((v) => !isLink(v) || ids.has(String(v[0])));
    return Object.fromEntries(known.filter(whole));
  } catch {
    return {}; // a graph that cannot be queued can still be listened to
  }
}

const isLink = (value) => Array.isArray(value) && value.length === 2 && typeof value[1] === "number";

// Model, seed, length and steps of the nodes that this one's masks go to; without such a model, the graph's first.
function settings(graph, own) {
  const found = {};
  const reached = new Set([own]);
  for (let grown = true; grown; ) {
    grown = false;
    for (const [id, { class_type, inputs }] of Object.entries(graph)) {
      if (reached.has(id) || !Object.values(inputs).some((v) => isLink(v) && reached.has(String(v[0])))) continue;
      reached.add(id);
      grown = true;
      if (!class_type.startsWith("Sounding")) continue;
      for (const name of ["model", "seed", "seconds", "steps", "cfg"]) found[name] ??= inputs[name];
      for (const link of Object.values(inputs).filter(isLink)) {
        const origin = graph[link[0]];
        if (origin?.class_type === "SoundingEmptyLatent") found.seconds ??= origin.inputs.seconds;
        if (origin?.class_type === "SoundingEncodeImage") found.model ??= origin.inputs.model;
      }
    }
  }
  const loader = Object.keys(graph).find((id) => graph[id].class_type === "SoundingLoadModel");
  if (loader) found.model ??= [loader, 0];
  return found;
}
