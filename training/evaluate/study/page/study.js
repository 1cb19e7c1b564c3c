// The page of a listening test. The server holds all state: a reload asks it where the rater is.

const WORDS = ["Bad", "Poor", "Fair", "Good", "Excellent"];
const SIDES = { 1: "The first", "-1": "The second", 0: "No difference" };
const $ = (id) => document.getElementById(id);
let trial = null; // what the server said last
let ready = 0; // when the least time is over, in milliseconds of performance.now()
let sending = false;

async function ask(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

// Run something that may fail, with its error shown at the top of the page.
async function attempt(action) {
  try {
    $("error").hidden = true;
    await action();
  } catch (error) {
    const lost = error instanceof TypeError || error instanceof SyntaxError;
    $("error").textContent = lost ? "The server cannot be reached; please try again." : error.message;
    $("error").hidden = false;
    $("error").scrollIntoView({ block: "nearest" });
  }
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function player(side, title) {
  const audio = element("audio", { controls: true, preload: "auto", src: `api/sound/${trial.position}/${side}` });
  audio.addEventListener("ended", () => {
    audio.dataset.heard = "yes";
    update();
  });
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
  });
  audio.addEventListener("error", () => attempt(() => Promise.reject(new Error("The sound did not load; reload the page."))));
  return element("div", { className: "player" }, ...(title ? [element("div", { textContent: title })] : []), audio);
}

function question(name, title, choices) {
  const labels = choices.map(([value, word]) =>
    element("label", {}, element("input", { type: "radio", name, value }), ` ${word}`),
  );
  const legend = element("legend", { textContent: title });
  return element("fieldset", {}, legend, element("div", { className: "choices" }, ...labels));
}

function answers() {
  const chosen = [...new FormData($("trial"))].map(([name, value]) => [name, Number(value)]);
  return Object.fromEntries(chosen);
}

// What still keeps the rater here, and whether Next can be pressed.
function update() {
  if (!trial?.scales) return;
  const unheard = document.querySelectorAll("audio:not([data-heard])").length;
  const open = trial.scales.length - Object.keys(answers()).length;
  const wait = Math.ceil((ready - performance.now()) / 1000);
  const missing = [];
  if (unheard) missing.push(unheard > 1 ? "listen to both sounds to the end" : "listen to the end");
  if (open) missing.push(open > 1 ? `answer ${open} more questions` : "answer one more question");
  say("missing", missing.length ? `Please ${missing.join(", ")}.` : "");
  say("wait", wait > 0 ? `You can go on in ${wait} s.` : "");
  $("next").disabled = sending || missing.length > 0 || wait > 0;
}

// Change a text only where it differs, so that screen readers do not read it again.
function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

async function load() {
  trial = await ask("api/trial");
  const rating = trial.state === "rate" || trial.state === "prefer";
  $("start").hidden = trial.state !== "start";
  $("end").hidden = trial.state !== "end";
  $("trial").hidden = !rating;
  $("total").textContent = trial.samples;
  $("players").replaceChildren();
  if (!rating) return;
  ready = performance.now() + 1000 * trial.wait;
  $("progress").max = trial.samples;
  $("progress").value = trial.done;
  $("count").textContent = `${trial.done + 1} of ${trial.samples}`;
  $("image").src = `api/image/${trial.position}`;
  $("text").textContent = trial.text;
  $("selected").hidden = !trial.object;
  $("object").textContent = trial.object;
  if (trial.state === "rate") {
    $("players").append(player(0, ""));
    const choices = WORDS.map((word, index) => [index + 1, `${index + 1} ${word}`]);
    $("questions").replaceChildren(...trial.scales.map(({ name, title }) => question(name, title, choices)));
  } else {
    $("players").append(player(0, "The first sound"), player(1, "The second sound"));
    const better = trial.object ? `the selected object (${trial.object})` : "the image";
    const title = `Which sound fits ${better} better?`;
    const choices = ["1", "-1", "0"].map((value) => [value, SIDES[value]]);
    $("questions").replaceChildren(question("preference", title, choices));
  }
  update();
  scrollTo(0, 0);
}

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await ask("api/start", { name: $("name").value });
    await load();
  });
});

$("trial").addEventListener("change", update);
$("trial").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("next").disabled) return;
  sending = true;
  update();
  attempt(async () => {
    try {
      const rating = { position: trial.position, values: answers() };
      await ask("api/rate", rating).catch((error) => {
        if (error.status !== 410) throw error; // 410: it is saved, only the word of it was lost
      });
      await load();
    } finally {
      sending = false;
      update();
    }
  });
});

setInterval(update, 250);
attempt(load);
