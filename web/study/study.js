// A study of how people work with the click node (table 2 of the paper): time, attempts, satisfaction. Nothing is
// recorded unless a setting is on, and then only between a trial's start and its rating. What is sent is listed in
// nodes/click/study_log.py. One trial at a time, whichever nodes the page has.
import { soundKeys } from "../click/sound_graph.js";
import { finishedTrials, readPlan, sendEvents } from "./files.js";

const KEPT = "Sounding.Study.Trial"; // in the tab's storage: a reload goes on with the trial
const MOST = 64; // events per request, as MAX_EVENTS of nodes/click/study_log.py
const RETRY = 2000; // ms, while the server does not answer

const now = () => performance.timeOrigin + performance.now(); // ms; steady, and the same after a reload

class Study extends EventTarget {
  #on = false;
  #plan = null; // {study, participants: {code: [{task, condition, sentence, instruction, image}, ...]}}
  #finished = new Map(); // participant -> set of "task/condition"
  #trial = null; // {id, seq, started, entry, participant, pending, runs, heard, done}
  #sending = null;
  #ended = new Map(); // prompt id -> status, of runs that ended before their id was known
  problem = ""; // a sentence

  // The setting

  get on() {
    return this.#on;
  }

  async switch(on) {
    if (on === this.#on) return;
    this.#on = on;
    this.#trial = on ? restored() : null;
    if (!on) sessionStorage.removeItem(KEPT);
    this.#changed();
    if (!on) return;
    await this.refresh();
    if (this.#trial) this.#send();
  }

  // Read the plan, and what the log has of it.
  async refresh() {
    try {
      this.#plan = await readPlan();
      this.#finished = await finishedTrials(this.#plan.study);
      this.problem = "";
    } catch (error) {
      this.#plan = null;
      this.problem = error.message;
    }
    this.#changed();
  }

  // What the panel shows

  get participants() {
    return Object.keys(this.#plan?.participants ?? {});
  }

  // The participant's tasks: {entry: the next one or undefined, done: how many, of: how many}.
  tasksOf(participant) {
    const entries = this.#plan?.participants[participant] ?? [];
    const finished = this.#finished.get(participant) ?? new Set();
    const left = entries.filter((each) => !finished.has(`${each.task}/${each.condition}`));
    return { entry: left[0], done: entries.length - left.length, of: entries.length };
  }

  // "idle", "working", "rating" or "sending".
  get stage() {
    if (!this.#trial) return "idle";
    if (!this.#trial.done) return "working";
    return this.#trial.rated ? "sending" : "rating";
  }

  get entry() {
    return this.#trial?.entry;
  }

  get participant() {
    return this.#trial?.participant;
  }

  // A trial

  // Start a participant's next task on an image, {name, subfolder, type}; it begins when the server has noted it.
  async start(participant, { name, subfolder, type }) {
    const { entry } = this.tasksOf(participant);
    const { task, condition, sentence } = entry;
    const id = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const what = { study: this.#plan.study, participant, task, condition, sentence, picture: { name, subfolder, type } };
    await sendEvents(id, [{ event: "start", seq: 0, at: 0, ...what }]);
    this.#trial = { id, seq: 0, started: now(), entry, participant, pending: [], runs: 0, heard: [] };
    this.problem = "";
    this.#save();
    this.#changed();
  }

  fail(problem) {
    this.#tell(problem);
  }

  // Note what happens in a trial; outside of one nothing is.
  note(event, fields = {}) {
    const trial = this.#trial;
    if (!trial || (trial.done && event !== "rated")) return;
    trial.seq += 1;
    trial.pending.push({ event, seq: trial.seq, at: Math.round(now() - trial.started) / 1000, ...fields });
    this.#save();
    this.#send();
  }

  // A prompt is about to be queued: gives null outside of a trial, else what has to be told whether it was, with its id.
  // It is `fresh`, an attempt, if it makes a sound that no earlier one of the trial has made.
  queueing(prompt, targets, by) {
    const trial = this.#trial;
    if (!trial || trial.done) return null;
    trial.runs += 1;
    const run = trial.runs;
    const keys = keysOf(prompt, targets);
    const fresh = keys.some((key) => !trial.heard.includes(key));
    trial.heard = [...new Set([...trial.heard, ...keys])];
    this.note("queue", { run, by, fresh });
    const end = (status) => this.#trial === trial && this.note("result", { run, status });
    return {
      refused: () => end("refused"),
      accepted: (id) => {
        if (!id) return;
        if (this.#ended.has(id)) end(this.#ended.get(id));
        else this.#ended.set(id, end);
      },
    };
  }

  // A run has ended: "made", "failed" or "stopped".
  ended(id, status) {
    const end = this.#ended.get(id);
    if (typeof end === "function") {
      this.#ended.delete(id);
      end(status);
      return;
    }
    this.#ended.set(id, status);
    while (this.#ended.size > 100) this.#ended.delete(this.#ended.keys().next().value);
  }

  // The participant stops working: the task is `reached`, or given up. The time ends here.
  finish(reached) {
    this.note("done", { reached });
    this.#trial.done = true;
    this.#save();
    this.#changed();
  }

  async rate(satisfaction) {
    const trial = this.#trial;
    trial.rated = true;
    this.note("rated", { satisfaction });
    this.#changed();
    await this.#send();
  }

  // Sends what is not sent yet, in order, until all of it is kept.
  #send() {
    this.#sending ??= this.#sendAll().finally(() => (this.#sending = null));
    return this.#sending;
  }

  async #sendAll() {
    for (let trial = this.#trial; trial?.pending.length && trial === this.#trial; ) {
      const events = trial.pending.slice(0, MOST);
      try {
        await sendEvents(trial.id, events);
        trial.pending.splice(0, events.length);
        this.#tell("");
      } catch (error) {
        this.#tell(error.message);
        // What the server never takes must not hold up the rest; that it is missing shows in the log's numbers.
        if (error.status === 400) trial.pending.splice(0, events.length);
        else await new Promise((resolve) => setTimeout(resolve, RETRY));
      }
      if (trial === this.#trial) this.#save();
    }
    if (this.#trial?.rated && !this.#trial.pending.length) await this.#close();
  }

  async #close() {
    this.#trial = null;
    sessionStorage.removeItem(KEPT);
    await this.refresh();
  }

  #tell(problem) {
    if (problem === this.problem) return;
    this.problem = problem;
    this.#changed();
  }

  #save() {
    sessionStorage.setItem(KEPT, JSON.stringify(this.#trial));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

function restored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT));
  } catch {
    return null;
  }
}

// A prompt that cannot be read counts as one of its own.
function keysOf(prompt, targets) {
  try {
    return soundKeys(prompt, targets ?? undefined);
  } catch {
    return [JSON.stringify(prompt)];
  }
}

export const study = new Study();
