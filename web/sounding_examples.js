// The pictures of this pack's templates: brought into the host's input folder when a template is opened.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { bringPictures, withNames } from "./examples/pictures.js";
import { inOrder } from "./examples/order.js";

const MARK = "sounding_pictures"; // in `extra` of a template: the names of its pictures

app.registerExtension({
  name: "Sounding.Examples",
  init() {
    const ask = api.getWorkflowTemplates;
    if (ask) api.getWorkflowTemplates = async (...args) => inOrder(await ask.apply(api, args));
  },
  // Before any node is made, so that none finds its picture missing.
  async beforeConfigureGraph(workflow) {
    const pictures = workflow?.extra?.[MARK];
    if (!Array.isArray(pictures)) return;
    // Saved as a person's own, a workflow may use pictures that only bear the same names.
    delete workflow.extra[MARK];
    try {
      withNames(workflow, await bringPictures(pictures));
    } catch (error) {
      const toast = app.extensionManager?.toast;
      toast?.add({ severity: "warn", summary: "Sounding Objects", detail: error.message, life: 15000 });
    }
  },
});
