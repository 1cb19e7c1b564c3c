// Entry: the images of this pack's templates, uploaded into the host's input folder when a template is opened.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { uploadImages, withNames } from "./examples/images.js";
import { inOrder } from "./examples/order.js";

const MARK = "sounding_pictures"; // in `extra` of a template: the file names of its images

app.registerExtension({
  name: "Sounding.Examples",
  init() {
    const ask = api.getWorkflowTemplates;
    if (ask) api.getWorkflowTemplates = async (...args) => inOrder(await ask.apply(api, args));
  },
  // Before any node is made, so that none finds its image missing.
  async beforeConfigureGraph(workflow) {
    const images = workflow?.extra?.[MARK];
    if (!Array.isArray(images)) return;
    // Once the user saves the workflow, it may use other images that only have the same names.
    delete workflow.extra[MARK];
    try {
      withNames(workflow, await uploadImages(images));
    } catch (error) {
      const toast = app.extensionManager?.toast;
      toast?.add({ severity: "warn", summary: "Sounding Objects", detail: error.message, life: 15000 });
    }
  },
});
