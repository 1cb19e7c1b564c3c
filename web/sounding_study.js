// Entry: the setting that lets the click node record how people work with it, for studies. It is off.
import { app } from "../../scripts/app.js";
import { watchRuns } from "./study/runs.js";
import { study } from "./study/study.js";

app.registerExtension({
  name: "Sounding.Study",
  settings: [
    {
      id: "Sounding.Study.Record", // as in nodes/click/study_routes.py
      name: "Record how I work (for studies)",
      category: ["Sounding Objects", "Studies", "Record"],
      tooltip:
        "Shows a study's tasks in Sound Objects (click), and notes times, clicks, runs and ratings between the start of a " +
        "task and its rating, in ComfyUI's user folder on the server. No images, places of clicks, names or prompts.",
      type: "boolean",
      defaultValue: false,
      onChange: (on) => {
        if (on === true) watchRuns();
        study.switch(on === true);
      },
    },
  ],
});
