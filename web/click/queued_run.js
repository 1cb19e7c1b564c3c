// One graph in the host's queue: sent, followed, stopped.
import { api } from "../../../scripts/api.js";
import { study } from "../study/study.js";

const POLL = 700; // ms, between the host's own messages
const own = new Set(); // ids of all that was sent from here
const sending = new Set(); // promises of those whose ids are not known yet

// Whether a run was sent from here. The host may announce its end before it has answered what sent it.
export async function isOwn(promptId) {
  await Promise.allSettled(sending);
  return own.has(promptId);
}

export class QueuedRun {
  #id = null;
  #stopped = false;
  #began = null; // when it left the queue
  #steps = 0; // once they are known

  // onNews({before: runs that come first}, {spent: seconds without a step} or {step, steps}): how far it is.
  constructor({ prompt, targets }, onNews) {
    this.onNews = onNews;
    this.done = this.#follow(prompt, targets); // its outputs, or null if it was stopped
  }

  async stop() {
    this.#stopped = true;
    if (!this.#id) return;
    study.ended(this.#id, "stopped"); // the host says nothing of runs that had not begun
    await post("/queue", { delete: [this.#id] });
    await post("/interrupt", { prompt_id: this.#id });
  }

  async #follow(prompt, targets) {
    const sent = this.#send(prompt, targets);
    sending.add(sent);
    try {
      this.#id = await sent;
    } finally {
      sending.delete(sent);
    }
    if (this.#stopped) await this.stop();
    const entry = await this.#finished();
    if (!entry) return null;
    if (entry.status?.status_str === "error") {
      const [kind, data] = entry.status.messages.at(-1);
      if (kind === "execution_interrupted") return null;
      throw new Error(data.exception_message?.trim() || "The sound could not be made; the server's log says why.");
    }
    return entry.outputs;
  }

  // Queue it: its id.
  async #send(prompt, targets) {
    const noted = study.queueing(prompt, targets, "node");
    const response = await post("/prompt", {
      client_id: api.clientId,
      prompt,
      // The rest of the page's graph is sent but not run: the host drops cached outputs of nodes that a prompt lacks.
      partial_execution_targets: targets,
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) {
      noted?.refused();
      throw new Error(refusal(answer) ?? `The queue answered ${response.status}; the server's log says why.`);
    }
    own.add(answer.prompt_id);
    noted?.accepted(answer.prompt_id);
    return answer.prompt_id;
  }

  // The prompt's entry in the history, or null if it left the queue without one.
  async #finished() {
    const stop = this.#listen();
    try {
      for (let missing = 0; missing < 3; ) {
        await this.#news();
        try {
          const history = await (await api.fetchApi(`/history/${this.#id}`)).json();
          if (history[this.#id]) return history[this.#id];
          missing = (await this.#look()) ? 0 : missing + 1;
        } catch {
          this.onNews({ lost: true });
        }
      }
      return null;
    } finally {
      stop();
    }
  }

  // Whether it is still in the queue; its place there is news.
  async #look() {
    const { queue_running: running, queue_pending: pending } = await (await api.fetchApi("/queue")).json();
    const number = (item) => item[0]; // they run in this order
    const mine = pending.find((item) => item[1] === this.#id);
    if (mine) {
      this.onNews({ before: running.length + pending.filter((item) => number(item) < number(mine)).length });
    } else if (running.some((item) => item[1] === this.#id)) {
      this.#began ??= performance.now();
      if (!this.#steps) this.onNews({ spent: (performance.now() - this.#began) / 1000 });
    } else return false;
    return true;
  }

  #listen() {
    const hear = ({ detail }) => {
      if (detail?.prompt_id !== this.#id || !(detail.max > 1)) return;
      this.#steps = detail.max;
      this.onNews({ step: detail.value, steps: detail.max });
    };
    api.addEventListener("progress", hear);
    return () => api.removeEventListener("progress", hear);
  }

  // Wait for the host to say that something has ended, or for a while.
  #news() {
    return new Promise((resolve) => {
      const kinds = ["execution_success", "execution_error", "execution_interrupted", "reconnected", "execution_start"];
      const done = () => {
        clearTimeout(timer);
        for (const kind of kinds) api.removeEventListener(kind, hear);
        resolve();
      };
      const hear = ({ detail }) => {
        if (detail?.prompt_id === undefined || detail.prompt_id === this.#id) done();
      };
      const timer = setTimeout(done, POLL);
      for (const kind of kinds) api.addEventListener(kind, hear);
    });
  }
}

const post = (path, body) =>
  api.fetchApi(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

function refusal({ error, node_errors }) {
  const first = Object.values(node_errors ?? {})[0]?.errors?.[0];
  return [first?.message ?? error?.message ?? error, first?.details].filter(Boolean).join(": ") || null;
}
