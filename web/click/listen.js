// Hear the objects: their sounds are made by the page's own graph, kept, and played here.
import { api } from "../../../scripts/api.js";
import { PREVIEWS, soundGraph, soundsIn, surenessIn } from "./graph.js";
import { MadeSounds, MIX } from "./made.js";
import { PlayerPanel } from "./player.js";
import { isOwn, Run } from "./run.js";

export { MIX };

export class Listener {
  #made = new MadeSounds();
  #jobs = new Map(); // key -> {run, wanted: [what], news}
  #sureness = new Map(); // clicks -> {sureness, sure}
  #asked = new Set(); // what is to be asked of the queue in a moment
  #end = (event) => this.#harvest(event.detail);

  constructor(model) {
    this.model = model;
    this.panel = new PlayerPanel(model);
    this.root = this.panel.root;
    api.addEventListener("execution_success", this.#end);
  }

  close() {
    api.removeEventListener("execution_success", this.#end);
    this.panel.close();
  }

  // "playing", "asked", "waiting" (with the share that is made, or null), or "": of an object's place, or of MIX.
  status(what) {
    if (this.panel.plays(what)) return { is: "playing" };
    if (this.#asked.has(what)) return { is: "waiting", share: null };
    const job = this.#jobOf(what);
    if (!job) return { is: "" };
    const { step, steps } = job.news;
    return { is: "waiting", share: steps ? step / steps : null };
  }

  // Hear an object, by its place, or MIX; once more to stop.
  async hear(what) {
    const { model, panel } = this;
    if (panel.plays(what)) {
      panel.stop();
      return;
    }
    const job = this.#jobOf(what);
    if (job) {
      job.wanted = job.wanted.filter((each) => each !== what);
      if (!job.wanted.length) await job.run.stop();
      model.changed();
      return;
    }
    if (this.#asked.has(what)) return;
    panel.playback.allow();
    this.#asked.add(what);
    model.changed();
    try {
      await this.#ask(what);
    } catch (error) {
      model.fail(error.message);
    } finally {
      this.#asked.delete(what);
      model.changed();
    }
  }

  async #ask(what) {
    const { model, panel } = this;
    const only = what !== MIX && !model.state.objects[what]?.on ? what : null;
    const graph = await soundGraph(model, only);
    const set = this.#made.get(graph.key);
    if (set) {
      try {
        await panel.play([[set, placeIn(set, what)]]);
        return;
      } catch {
        this.#made.drop(graph.key); // the host has forgotten its files
      }
    }
    const job = this.#jobs.get(graph.key) ?? this.#begin(graph);
    job.wanted.push(what);
  }

  #begin(graph) {
    const { model, panel } = this;
    const { key, objects } = graph;
    const job = { wanted: [], news: {} };
    this.#jobs.set(key, job);
    model.say("Asking for the sounds …");
    job.run = new Run(graph, (news) => {
      job.news = news;
      this.#tell(job);
    });
    job.run.done
      .then(async (outputs) => {
        if (!outputs) return model.say("Stopped");
        const files = Object.fromEntries(Object.entries(PREVIEWS).map(([what, id]) => [what, outputs[id]?.audio]));
        if (!files.tracks?.length) throw new Error("The sounds were made but not found; press play again.");
        const set = this.#made.put(graph, files);
        this.#jobs.delete(key);
        model.say(`Made: ${objects.map((each) => each.name).join(", ")}`);
        this.#hearSureness(graph, outputs);
        await panel.play(job.wanted.map((what) => [set, placeIn(set, what)]));
      })
      .catch((error) => model.fail(error.message))
      .finally(() => {
        this.#jobs.delete(key);
        model.changed();
      });
    return job;
  }

  #jobOf(what) {
    return [...this.#jobs.values()].find((job) => job.wanted.includes(what));
  }

  // How sure the model is of an object as it is clicked now, {sureness, sure}; undefined where it has not said so.
  surenessOf(object) {
    return this.#sureness.get(clicksOf(this.model.picture, object));
  }

  #hearSureness(graph, outputs) {
    const told = surenessIn(graph, outputs);
    told?.forEach((each, n) => this.#sureness.set(clicksOf(this.model.picture, graph.objects[n]), each));
    if (told) this.model.changed();
  }

  #tell({ news: { before, spent, step, steps, lost } }) {
    const { model } = this;
    if (lost) model.say("The server does not answer; waiting …");
    else if (steps) model.say(`Making the sounds: step ${step} of ${steps}`);
    else if (before) model.say(before === 1 ? "Waiting: one run comes first" : `Waiting: ${before} runs come first`);
    else if (spent !== undefined) {
      model.say(`Getting ready … ${Math.round(spent)} s${spent > 3 ? " (the first sound loads the model)" : ""}`);
    }
    model.list.sync();
  }

  // What a run of the page has made is heard here too.
  async #harvest(detail) {
    const id = detail?.prompt_id;
    if (!id || isOwn(id)) return;
    try {
      const entry = await historyOf(id);
      const { model, panel } = this;
      const found = entry && soundsIn(entry.prompt[2], entry.outputs, model.node, model.picture?.stamp);
      if (!found?.objects.length) return;
      const set = this.#made.put(found, found.files);
      this.#hearSureness(found, entry.outputs);
      if (!panel.playback.playing) await panel.show(set, found.objects.length > 1 ? MIX : 0);
      model.changed();
    } catch {
      // A run whose sounds cannot be found is no less a run: Hear asks for them.
    }
  }
}

// The host tells of a run's end a moment before it is in the history.
async function historyOf(id) {
  for (let tries = 0; tries < 20; tries += 1) {
    const { [id]: entry } = await (await api.fetchApi(`/history/${id}`)).json();
    if (entry) return entry;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  return null;
}

// An object's place in the list -> its number among the tracks.
const placeIn = (set, what) => (what === MIX ? MIX : Math.max(0, set.objects.findIndex((each) => each.place === what)));

const clicksOf = (picture, { positive, negative, box }) => JSON.stringify([picture, positive, negative, box]);
