"use strict";

const HEARD = 0.9; // part of a clip that must have been played
const test = JSON.parse(document.getElementById("test").textContent);
const main = document.getElementById("main");

const LEVELS = {
  ovl: ["bad", "poor", "fair", "good", "excellent"],
  rel: ["not at all", "a little", "partly", "mostly", "fully"],
  beeps: ["", "", "", "", ""],
};
const LEGENDS = {
  ovl: "Overall quality: how good does the music sound?",
  rel: "Relevance: how well does the music fit the description?",
  beeps: "How many beeps do you hear?",
  choice: "Which of the two do you prefer?",
};

/* Order: keyed by the test and the rater, so that a rater who comes back finds it again. */

function randomFor(text) {
  let state = 2166136261; // FNV-1a of the text, then xorshift32
  for (const byte of new TextEncoder().encode(text)) state = Math.imul(state ^ byte, 16777619);
  state = state || 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  for (let skipped = 0; skipped < 32; skipped++) next();
  return (below) => next() % below;
}

function shuffled(list, draw) {
  const result = [...list];
  for (let last = result.length - 1; last > 0; last--) {
    const other = draw(last + 1);
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}

function trialsFor(rater) {
  const draw = randomFor(`${test.id}/${rater}`);
  const items = shuffled(test.items, draw).slice(0, test.perRater || test.items.length);
  const asked = items.flatMap((item) => item.trials.map((trial) => ({ ...trial, prompt: item.prompt })));
  const trials = shuffled(asked, draw).map((trial) => ({ ...trial, clips: shuffled(trial.clips, draw) }));
  const checks = shuffled(test.checks, draw);
  const room = trials.length / (checks.length + 1);
  checks.forEach((check, index) => trials.splice(Math.round((index + 1) * room) + index, 0, check));
  return trials;
}

/* Answers are kept in the browser, where it allows that, until the test is finished. */

function kept(rater) {
  try {
    return JSON.parse(localStorage.getItem(`${test.id}/${rater}`)) || null;
  } catch {
    return null;
  }
}

function keep(session) {
  try {
    localStorage.setItem(`${test.id}/${session.rater}`, JSON.stringify(session));
  } catch {
    /* a reload then starts again */
  }
}

/* Elements */

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function show(...children) {
  main.replaceChildren(...children);
  window.scrollTo(0, 0);
}

function player(clip, label, changed) {
  const audio = element("audio", { controls: true, preload: "auto", src: `${test.folder}/${clip}${test.suffix}` });
  audio.dataset.clip = clip;
  const failed = element("p", { className: "error", hidden: true });
  failed.textContent = "This clip cannot be loaded. Reload the page to try again; your answers are kept.";
  audio.addEventListener("error", () => { failed.hidden = false; });
  audio.addEventListener("play", () => {
    for (const other of main.querySelectorAll("audio")) if (other !== audio) other.pause();
  });
  for (const event of ["timeupdate", "pause", "ended"]) audio.addEventListener(event, changed);
  return element("div", { className: "clip" }, element("span", { textContent: label }), audio, failed);
}

function heard(audio) {
  let seconds = 0;
  for (let part = 0; part < audio.played.length; part++) seconds += audio.played.end(part) - audio.played.start(part);
  return { seconds, enough: audio.duration > 0 && seconds >= HEARD * audio.duration };
}

function choicesOf(ask, trial) {
  if (ask !== "choice") return LEVELS[ask].map((word, index) => [index + 1, `${index + 1} ${word}`]);
  const [first, second] = trial.clips;
  return [[first, "A"], [test.neither, "no preference"], [second, "B"]];
}

function question(ask, trial, changed) {
  const labels = choicesOf(ask, trial).map(([value, text]) => {
    const input = element("input", { type: "radio", name: ask, value: String(value) });
    input.addEventListener("change", changed);
    return element("label", {}, input, text);
  });
  const legend = element("legend", { textContent: LEGENDS[ask] });
  return element("fieldset", {}, legend, element("div", { className: "choices" }, ...labels));
}

function answerTo(ask) {
  const chosen = main.querySelector(`input[name=${ask}]:checked`);
  return chosen && (ask === "choice" ? chosen.value : Number(chosen.value));
}

/* Screens */

function welcome() {
  const rater = element("input", { type: "text", id: "rater", maxLength: 64, autocomplete: "off" });
  rater.value = new URLSearchParams(location.search).get("rater") || "";
  const start = element("button", { id: "start", textContent: "Start" });
  const changed = () => { start.disabled = !rater.value.trim(); };
  const begin = () => { if (rater.value.trim()) resume(rater.value.trim()); };
  rater.addEventListener("input", changed);
  rater.addEventListener("keydown", (event) => { if (event.key === "Enter") begin(); });
  start.addEventListener("click", begin);
  changed();
  show(
    element("p", { textContent: "Use headphones in a quiet place. Set a comfortable volume at the first clip and leave it." }),
    element("p", { textContent: "Listen to each clip to its end; you can play it again as often as you like. Some clips are made of beeps to count: they show that you listen." }),
    element("p", {}, element("label", { htmlFor: "rater", textContent: "Your name or number, as you were told: " })),
    element("p", {}, rater),
    start,
  );
  rater.focus();
}

function resume(rater) {
  const session = kept(rater) || { rater, started: new Date().toISOString(), finished: null, trials: [] };
  const trials = trialsFor(rater);
  const next = () => (session.trials.length < trials.length ? ask(session, trials, next) : finish(session));
  next();
}

function ask(session, trials, next) {
  const trial = trials[session.trials.length];
  const shown = Date.now();
  const button = element("button", { id: "next", textContent: "Next", disabled: true });
  const status = element("span", { className: "status" });
  const update = () => {
    const unheard = [...main.querySelectorAll("audio")].some((audio) => !heard(audio).enough);
    const open = trial.asks.some((name) => answerTo(name) === null);
    button.disabled = unheard || open;
    if (unheard) status.textContent = trial.clips.length > 1 ? "Listen to both clips to the end." : "Listen to the clip to its end.";
    else status.textContent = open ? "Choose an answer to each question." : "";
  };
  button.addEventListener("click", () => {
    session.trials.push({
      trial: trial.id,
      clips: trial.clips,
      answers: Object.fromEntries(trial.asks.map((name) => [name, answerTo(name)])),
      heard: [...main.querySelectorAll("audio")].map((audio) => Math.round(heard(audio).seconds * 100) / 100),
      seconds: (Date.now() - shown) / 1000,
    });
    keep(session);
    next();
  });
  const names = trial.clips.length > 1 ? ["A", "B"] : ["Clip"];
  const parts = [element("p", { className: "progress", textContent: `${session.trials.length + 1} of ${trials.length}` })];
  if (trial.prompt) {
    const heading = element("b", { textContent: "Description" });
    parts.push(element("div", { className: "prompt" }, heading, trial.prompt));
  }
  parts.push(...trial.clips.map((clip, index) => player(clip, names[index], update)));
  parts.push(...trial.asks.map((name) => question(name, trial, update)));
  show(...parts, button, status);
  update();
}

async function finish(session) {
  session.finished = session.finished || new Date().toISOString();
  keep(session);
  const text = JSON.stringify({ test: test.id, ...session });
  const name = `${test.id}-${session.rater.replace(/[^\w-]+/g, "_")}.json`;
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = element("a", { id: "download", className: "button", href: address, download: name });
  link.textContent = "Download your answers";
  const status = element("p", { id: "sent", textContent: "Your answers are being sent ..." });
  show(element("h2", { textContent: "That was all. Thank you!" }), status, link);
  status.textContent = (await sent(text))
    ? "Your answers have been sent; you can close this page."
    : "Please download your answers and send the file to the person who asked you.";
}

async function sent(text) {
  if (!location.protocol.startsWith("http")) return false;
  try {
    const headers = { "Content-Type": "application/json" };
    const reply = await fetch("results", { method: "POST", headers, body: text });
    return reply.status === 201;
  } catch {
    return false;
  }
}

welcome();
