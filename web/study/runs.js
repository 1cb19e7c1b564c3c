// Tells a study of all that the page queues, and how it ended. The host's function is wrapped only once recording is on.
import { api } from "../../../scripts/api.js";
import { study } from "./study.js";

const ENDS = { execution_success: "made", execution_error: "failed", execution_interrupted: "stopped" };
let watching = false;

export function watchRuns() {
  if (watching) return;
  watching = true;
  const { queuePrompt } = api;
  api.queuePrompt = async function (number, graph, ...others) {
    const run = study.queueing(graph?.output ?? {}, null, "page");
    try {
      const answer = await queuePrompt.call(this, number, graph, ...others);
      run?.accepted(answer?.prompt_id);
      return answer;
    } catch (error) {
      run?.refused();
      throw error;
    }
  };
  for (const [kind, status] of Object.entries(ENDS)) {
    api.addEventListener(kind, ({ detail }) => detail?.prompt_id && study.ended(detail.prompt_id, status));
  }
}
