// Lets people hear the objects: their sounds are made by the page's own graph, kept, and played in the widget's player.
import { api } from "../../../scripts/api.js";
import { Player } from "../player/player.js";
import { MIX, SoundCache } from "../player/sound_cache.js";
import { isOwn, QueuedRun } from "./queued_run.js";
import { study } from "../study/study.js";
import { PREVIEWS, soundGraph, soundsIn, surenessIn } from "./sound_graph.js";

// What can be heard, `what` below, is an object by its number in the list, or MIX.
export class Preview {
  #cache = new SoundCache();
  #jobs = new Map(); // key of a graph -> {run, wanted: what is played at its end, news}
  #sureness = new Map(); // clicks -> {sureness, sure}
  #asked = new Set(); // what was pressed and is not yet in a job
  #playing = false;
  #onSuccess = (event) => this.#takeRun(event.detail);

  constructor(widget) {
    this.widget = widget;
    this.player = new Player({
      gainOf: (place) => widget.editor.state.objects[place]?.gain_db,
      onChange: () => this.#playerChanged(),
      fail: (text) => widget.fail(text),
    });
    api.addEventListener("execution_success", this.#onSuccess);
  }

  close() {
    api.removeEventListener("execution_success", this.#onSuccess);
    this.player.close();
  }

  // Keep no sound that was made.
  forget() {
    this.#cache = new SoundCache();
    this.player.clear();
  }

  #playerChanged() {
    const { widget, player } = this;
    widget.list.sync();
    const { playing } = player.playback;
    if (playing && !this.#playing) {
      study.note("play", { object: widget.editor.state.objects.findIndex((_, index) => player.plays(index)) });
    }
    this.#playing = playing;
  }

  // {is: "playing"}, {is: "waiting", share: how much of it is made, or null}, or {is: ""}.
  status(what) {
    if (this.player.plays(what)) return { is: "playing" };
    if (this.#asked.has(what)) return { is: "waiting", share: null };
    const job = this.#jobOf(what);
    if (!job) return { is: "" };
    const { step, steps } = job.news;
    return { is: "waiting", share: steps ? step / steps : null };
  }

  // Play a sound, made first where there is none; once more to stop it.
  async hear(what) {
    const { widget, player } = this;
    if (player.plays(what)) {
      player.stop();
      return;
    }
    const job = this.#jobOf(what);
    if (job) {
      job.wanted = job.wanted.filter((each) => each !== what);
      if (!job.wanted.length) await job.run.stop();
      widget.changed();
      return;
    }
    if (this.#asked.has(what)) return;
    player.playback.allow();
    this.#asked.add(what);
    widget.changed();
    try {
      await this.#ask(what);
    } catch (error) {
      widget.fail(error.message);
    } finally {
      this.#asked.delete(what);
      widget.changed();
    }
  }

  // Play a sound from the cache, or have it made.
  async #ask(what) {
    const { widget, player } = this;
    const only = what !== MIX && !widget.editor.state.objects[what]?.on ? what : null;
    const graph = await soundGraph(widget, only);
    const set = this.#cache.get(graph.key);
    if (set) {
      try {
        await player.play([[set, trackOf(set, what)]]);
        return;
      } catch {
        this.#cache.drop(graph.key); // the host no longer has its files
      }
    }
    const job = this.#jobs.get(graph.key) ?? this.#begin(graph);
    job.wanted.push(what);
  }

  #begin(graph) {
    const { widget, player } = this;
    const { key, objects } = graph;
    const job = { wanted: [], news: {} };
    this.#jobs.set(key, job);
    widget.say("Asking for the sounds …");
    job.run = new QueuedRun(graph, (news) => {
      job.news = news;
      this.#tell(news);
    });
    job.run.done
      .then(async (outputs) => {
        if (!outputs) return widget.say("Stopped");
        const files = Object.fromEntries(Object.entries(PREVIEWS).map(([kind, id]) => [kind, outputs[id]?.audio]));
        if (!(files.tracks ?? files.gained)?.length) throw new Error("The sounds were made but not found; press play again.");
        const set = this.#cache.put(graph, files);
        this.#jobs.delete(key);
        widget.say(`Made: ${objects.map((each) => each.name).join(", ")}`);
        this.#noteSureness(graph, outputs);
        await player.play(job.wanted.map((what) => [set, trackOf(set, what)]));
      })
      .catch((error) => widget.fail(error.message))
      .finally(() => {
        this.#jobs.delete(key);
        widget.changed();
      });
    return job;
  }

  #jobOf(what) {
    return [...this.#jobs.values()].find((job) => job.wanted.includes(what));
  }

  #tell({ before, spent, step, steps, lost }) {
    const { widget } = this;
    if (lost) widget.say("The server does not answer; waiting …");
    else if (steps) widget.say(`Making the sounds: step ${step} of ${steps}`);
    else if (before) widget.say(before === 1 ? "Waiting: one run comes first" : `Waiting: ${before} runs come first`);
    else if (spent !== undefined) {
      widget.say(`Getting ready … ${Math.round(spent)} s${spent > 3 ? " (the first sound loads the model)" : ""}`);
    }
    widget.list.sync();
  }

  // How sure the model is of an object as it is clicked now, {sureness, sure}; undefined until a run has reported it.
  surenessOf(object) {
    return this.#sureness.get(this.#clicksOf(object));
  }

  #noteSureness(graph, outputs) {
    const reported = surenessIn(graph, outputs);
    reported?.forEach((each, n) => this.#sureness.set(this.#clicksOf(graph.objects[n]), each));
    if (reported) this.widget.changed();
  }

  #clicksOf({ positive, negative, box }) {
    return JSON.stringify([this.widget.reference, positive, negative, box]);
  }

  // A run of the page has ended: its sounds are played here too.
  async #takeRun(detail) {
    const id = detail?.prompt_id;
    if (!id || (await isOwn(id))) return;
    try {
      const entry = await historyOf(id);
      const { widget, player } = this;
      const found = entry && soundsIn(entry.prompt[2], entry.outputs, widget.node, widget.reference?.stamp);
      if (!found?.objects.length) return;
      const set = this.#cache.put(found, found.files);
      this.#noteSureness(found, entry.outputs);
      if (!player.busy) await player.show(set, found.objects.length > 1 ? MIX : 0);
      widget.changed();
    } catch {
      // The run was fine even if its sounds cannot be found here: pressing play makes them.
    }
  }
}

// The host announces the end of a run a moment before it is in the history.
async function historyOf(id) {
  for (let tries = 0; tries < 20; tries += 1) {
    const { [id]: entry } = await (await api.fetchApi(`/history/${id}`)).json();
    if (entry) return entry;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  return null;
}

// The track of an object, by its number in the list; MIX is MIX.
const trackOf = (set, what) => (what === MIX ? MIX : Math.max(0, set.objects.findIndex((each) => each.place === what)));
