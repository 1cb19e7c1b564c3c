// The part of the click node's widget that a study's participant sees, while recording is on: who, which task, start,
// done, and how satisfied.
import { connectedSlot, isImageInput, parseReference } from "../click/image.js";
import { addStyle, element } from "../page/elements.js";
import { deleteLog, downloadLog } from "./files.js";
import { study } from "./study.js";

const KEPT =
  "From Start until you have rated the sound, the server notes when you click, have sounds made and play them, and your " +
  "rating. It notes no images, no places of clicks, no names and no prompts.";
const SATISFIED = ["not at all", "a little", "so-so", "quite", "completely"]; // 1 to 5

let chosen = ""; // the participant, in all nodes of the page

export class StudyPanel {
  #show = () => this.sync();

  constructor(widget) {
    this.widget = widget;
    addStyle(new URL("./study.css", import.meta.url));
    this.root = element("section", { className: "sounding-study", ariaLabel: "Study", hidden: true });
    study.addEventListener("change", this.#show);
    this.sync();
  }

  close() {
    study.removeEventListener("change", this.#show);
  }

  sync() {
    this.root.hidden = !study.on;
    if (!study.on) return;
    chosen = study.participant ?? chosen; // also after a reload
    this.root.classList.toggle("recording", study.stage !== "idle");
    const problem = study.problem && element("p", { className: "sounding-study-problem", role: "alert" }, study.problem);
    this.root.replaceChildren(...[...this.#stage(), problem].filter(Boolean));
  }

  #stage() {
    const { entry } = study;
    switch (study.stage) {
      case "working":
        return [
          heading("Recording"),
          ...task(entry),
          row(
            textButton("I have the sound", () => study.finish(true), "strong"),
            textButton("Give up", () => study.finish(false)),
          ),
        ];
      case "rating":
        return [heading("Recording"), element("p", {}, "How satisfied are you with the sound that you got?"), rating()];
      case "sending":
        return [heading("Recording"), element("p", {}, "Saving your rating …")];
      default:
        return this.#idle();
    }
  }

  #idle() {
    const { participants } = study;
    if (!participants.length) {
      return [heading("Study"), row(textButton("Look again", () => study.refresh()), ...logButtons())];
    }
    const who = element("select", {
      ariaLabel: "Participant",
      onchange: () => {
        chosen = who.value;
        this.sync();
      },
    });
    who.append(...["", ...participants].map((code) => element("option", { value: code }, code || "participant …")));
    who.value = participants.includes(chosen) ? chosen : "";
    const head = heading("Study", who);
    if (!who.value) return [head, row(...logButtons())];
    const { entry, done, of } = study.tasksOf(who.value);
    if (!entry) return [head, element("p", {}, `${done} of ${of} tasks are done. Thank you.`), row(...logButtons())];
    return [
      head,
      element("p", { className: "sounding-study-note" }, `Task ${done + 1} of ${of}`),
      ...task(entry),
      element("p", { className: "sounding-study-note" }, KEPT),
      row(
        textButton("Start", ({ currentTarget }) => {
          currentTarget.disabled = true; // until the server has noted it, or has not
          this.#start(who.value, entry).finally(() => (currentTarget.disabled = false));
        }, "strong"),
      ),
    ];
  }

  async #start(participant, entry) {
    const { widget } = this;
    const isConnected = connectedSlot(widget.node, isImageInput) >= 0;
    const image = isConnected ? widget.reference : parseReference(entry.image);
    try {
      if (!image) throw new Error("The node shows no image; connect one, or disconnect the input.");
      await study.start(participant, image);
      widget.renew(isConnected ? null : entry.image);
    } catch (error) {
      study.fail(error.message);
    }
  }
}

const task = ({ sentence, instruction }) => [
  element("p", { className: "sounding-study-task" }, sentence),
  ...(instruction ? [element("p", {}, instruction)] : []),
];

const row = (...children) => element("div", { className: "sounding-study-row" }, ...children);

function heading(text, ...more) {
  return element("div", { className: "sounding-study-row" }, element("b", {}, text), ...more);
}

function textButton(text, onclick, kind = "") {
  return element("button", { type: "button", className: `sounding-study-button ${kind}`, onclick }, text);
}

function rating() {
  const buttons = SATISFIED.map((word, i) => {
    const made = textButton(String(i + 1), () => study.rate(i + 1));
    made.title = word;
    made.setAttribute("aria-label", `${i + 1}: ${word}`);
    return made;
  });
  return row(SATISFIED[0], ...buttons, SATISFIED.at(-1));
}

// For the study's leader.
function logButtons() {
  const take = textButton("Download log", async () => {
    if (!(await downloadLog())) study.fail("There is no log yet.");
  });
  const remove = textButton("Delete log", async () => {
    if (remove.textContent === "Delete log") {
      remove.textContent = "Delete it for good?";
      return;
    }
    await deleteLog();
    await study.refresh();
  });
  return [take, remove];
}
