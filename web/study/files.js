// A study's files in the folder of the host's user: the plan, which its leader puts there, and the log, which only the
// server adds to. The host's own route for such files reads and deletes them.
import { api } from "../../../scripts/api.js";

const PLAN = "sounding_study/tasks.json";
const LOG = "sounding_study/log.jsonl"; // as in nodes/click/study_routes.py

export async function sendEvents(trial, events) {
  let response;
  try {
    response = await api.fetchApi("/sounding/study", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ trial, events }),
    });
  } catch {
    throw new Error("The server does not answer; what was done is kept here and sent later.");
  }
  if (response.ok) return;
  const answer = await response.json().catch(() => ({}));
  const error = new Error(answer.error ?? `The server answered ${response.status}; its log says why.`);
  throw Object.assign(error, { status: response.status });
}

export async function readPlan() {
  const response = await api.getUserData(PLAN);
  if (response.status === 404) throw new Error(`There are no tasks: put ${PLAN} into ComfyUI's folder user/default.`);
  const plan = response.ok ? await response.json().catch(() => null) : null;
  if (plan?.version !== 1 || typeof plan.participants !== "object") {
    throw new Error(`${PLAN} cannot be read; make it again with "evaluate study tasks".`);
  }
  return plan;
}

async function logText() {
  const response = await api.getUserData(LOG);
  return response.ok ? response.text() : "";
}

// Which tasks have been rated: participant -> set of "task/condition".
export async function finishedTrials(study) {
  const [started, finished] = [new Map(), new Map()];
  for (const line of (await logText()).split("\n")) {
    const event = parsed(line);
    if (event?.event === "start" && event.study === study) started.set(event.trial, event);
    const start = event?.event === "rated" && started.get(event.trial);
    if (!start) continue;
    if (!finished.has(start.participant)) finished.set(start.participant, new Set());
    finished.get(start.participant).add(`${start.task}/${start.condition}`);
  }
  return finished;
}

function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

// Save the log as a file of the browser; whether there is one.
export async function downloadLog() {
  const text = await logText();
  if (!text) return false;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  link.download = "log.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  return true;
}

export const deleteLog = () => api.deleteUserData(LOG);
