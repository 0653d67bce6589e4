"use strict";
// All that comes from texts and labels is set as text, never as markup.
const RETRY_MS = 1500, LONGEST_S = 600;
const at = (id) => document.getElementById(id);
let state = null, place = 0, item = null, since = 0, busy = true, marked = 0, picked = new Set();

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
const key = (name) => make("kbd", { textContent: name });
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function complain(message, reload = false) {
  at("alert").textContent = message ?? "";
  if (reload) at("alert").append(" ", make("button", { textContent: "Load again", onclick: () => location.reload() }));
  at("alert").hidden = !message;
}

class Refusal extends Error {}

/* Ask until there is an answer: nothing is given up because the server is away for a moment. */
async function ask(path, body) {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) };
  for (;;) {
    let response, answer;
    try {
      response = await fetch(`${path}?batch=${state?.batch ?? ""}`, body === undefined ? {} : post);
      answer = await response.json().catch(() => ({ error: `status ${response.status}` }));
    } catch {
      complain(`${body ? "Not saved yet: t" : "T"}he server can't be reached. Start it again (llambert review); this page goes on by itself.`);
    }
    if (response?.ok) { complain(null); return answer; }
    if (response && response.status !== 503) {
      const gone = response.status === 404;
      const message = gone ? "this page belongs to another review: open the address that the terminal shows" : answer.error;
      throw Object.assign(new Refusal(message), { label: answer.label, reload: answer.reload || gone });
    }
    if (response) complain(answer.error);
    await wait(RETRY_MS);
  }
}

/* One thing at a time; keys that are pressed meanwhile do nothing. */
async function doing(work) {
  if (busy) return;
  busy = true;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    complain(error.message[0].toUpperCase() + error.message.slice(1), error.reload);
    if (error.label !== undefined) { mine().label = item.label = error.label; show(); }
  } finally {
    busy = false;
  }
}

const mine = () => state.items[place];
const names = () => [...state.labels.map((one) => one.name), ...(state.sets ? [state.sets.none] : []), ...(state.unclear ? [state.unclear] : [])];
const parts = (label) => (state.sets ? label.split(state.sets.separator) : [label]); // what a label consists of
const written = () => state.labels.map((one) => one.name).filter((name) => picked.has(name)).join(state.sets.separator) || state.sets.none;
const spoken = (label) => (label === state.unclear ? `${label} / mixed` : label);

function minutes(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function showProgress() {
  const total = state.items.length, done = state.items.filter((one) => one.label).length;
  at("progress").max = total;
  at("progress").value = done;
  at("place").textContent = item ? `${place + 1} of ${total}` : `${total} of ${total}`;
  const left = state.pace_s && done < total ? `, ${state.pace_s.toFixed(1)} s each, about ${minutes(state.pace_s * (total - done))} left` : "";
  at("pace").textContent = `${done} labelled${left}`;
  document.title = `${done}/${total} ${state.title}`;
}

function opinion({ label, confidence, suggested, reference }) {
  const said = [];
  if (label) said.push(`the model said ${label}${confidence === null ? "" : ` (${(100 * confidence).toFixed(0)} %)`}`);
  if (suggested) said.push(`suggested was ${suggested}`);
  if (reference) said.push(`gold is ${reference}`);
  return said.join("; ");
}

function show() {
  at("finished").hidden = item !== null;
  at("item").hidden = item === null;
  showProgress();
  showLabels();
  if (!item) { showCounts(); return; }
  at("text").textContent = item.text.replace(/<br\s*\/?>/gi, "\n");
  at("noted").textContent = `Note: ${item.note}`;
  at("noted").hidden = !item.note;
  const words = item.shown ? opinion(item.shown) : "";
  at("shown").textContent = words ? words[0].toUpperCase() + words.slice(1) + "." : "";
  at("shown").hidden = !words;
}

function showCounts() {
  const counts = names().map((name) => [name, state.items.filter((one) => one.label && parts(one.label).includes(name)).length]);
  at("counts").textContent = counts.filter(([, n]) => n).map(([name, n]) => `${spoken(name)}: ${n}`).join(", ");
}

function found() {
  const words = at("filter").value.toLowerCase().split(/[\s_]+/).filter(Boolean);
  const fits = (name) => words.every((word) => name.toLowerCase().includes(word));
  return state.labels.map((one) => one.name).filter(fits);
}

function button(name, keys) {
  const words = spoken(name).split(/(?<=_)/).flatMap((part) => [part, make("wbr")]); // long names break between words
  const one = make("button", { type: "button", onclick: () => choose(name) }, ...keys.slice(0, 2).map(key), make("span", {}, ...words));
  one.dataset.label = name;
  if (keys.length) one.setAttribute("aria-keyshortcuts", keys.join(" "));
  one.setAttribute("aria-pressed", String(state.sets && name !== state.unclear ? picked.has(name) : item?.label === name));
  return one;
}

function showLabels() {
  const shown = state.filter ? found() : null;
  marked = Math.max(0, Math.min(marked, (shown?.length ?? 1) - 1));
  const buttons = shown
    ? shown.map((name, i) => button(name, i < 9 ? [String(i + 1)] : []))
    : state.labels.map((one) => button(one.name, one.keys));
  if (shown && at("filter").value) buttons[marked]?.classList.add("marked");
  const own = state.unclear ? [Object.assign(button(state.unclear, state.keys.unclear), { className: "own" })] : [];
  if (state.sets && item) own.push(make("button", { type: "button", onclick: () => save(written()) }, key("Enter"), make("span", {}, `save: ${written()}`)));
  at("labels").replaceChildren(...(shown ? [...own, ...buttons] : [...buttons, ...own])); // never below many others
  at("labels").classList.toggle("many", state.filter);
  at("labels").hidden = item === null;
  at("filter").hidden = !state.filter || item === null;
}

async function go(to, receipt) {
  place = to;
  item = to < state.items.length ? await ask(`items/${state.items[to].key}`) : null;
  history.replaceState(null, "", `#${to + 1}`);
  since = performance.now();
  picked = new Set(item?.label ? parts(item.label) : []);
  at("filter").value = "";
  marked = 0;
  if (receipt !== undefined) at("receipt").textContent = receipt;
  show();
  scrollTo(0, 0);
  if (state.filter && item && matchMedia("(hover: hover)").matches) at("filter").focus({ preventScroll: true });
  else at(item ? "item" : "finished").focus({ preventScroll: true });
}

/* The next one without a label, from here on and round again; the end where there is none. */
function following() {
  const total = state.items.length;
  for (let step = 1; step <= total; step++) if (!state.items[(place + step) % total].label) return (place + step) % total;
  return total;
}

const keep = (label, note) => ask(`items/${mine().key}`, {
  label, note, expected: mine().label, seconds: mine().label ? null : Math.min(LONGEST_S, (performance.now() - since) / 1000),
});

const save = (label) => doing(async () => {
  if (!item) return;
  const answer = await keep(label, item.note);
  mine().label = label;
  state.pace_s = answer.pace_s;
  const said = opinion(answer.shown);
  await go(following(), `The last one is saved as ${spoken(label)}${said ? `; ${said}` : ""}.`);
});

/* Where a text has any number of labels, they are picked first and saved together. */
function choose(label) {
  if (!state.sets || label === state.unclear) return save(label);
  if (busy || !item) return;
  if (!picked.delete(label)) picked.add(label);
  at("filter").value = "";
  marked = 0;
  showLabels();
}

const keepNote = (note) => doing(async () => {
  const answer = await keep(mine().label, note);
  Object.assign(item, { note, shown: answer.shown ?? item.shown });
  mine().noted = Boolean(note);
  at("receipt").textContent = note ? "Note saved." : "Note taken away.";
  closeNote();
  show();
});

const undo = () => doing(async () => {
  const { key: undone, label, noted } = await ask("undo", {});
  if (!undone) { at("receipt").textContent = "There is nothing to undo."; return; }
  const index = state.items.findIndex((one) => one.key === undone);
  Object.assign(state.items[index], { label, noted });
  await go(index, "Taken back.");
});

const move = (step) => doing(async () => {
  const to = place + step;
  if (to >= 0 && to < state.items.length) await go(to, "");
});

function openNote() {
  if (!item || busy) return;
  at("note").hidden = false;
  at("words").value = item.note;
  at("words").focus();
}

function closeNote() {
  at("note").hidden = true;
  at("item").focus({ preventScroll: true });
}

const ACTIONS = { unclear: () => choose(state.unclear), note: openNote, undo };

/* What a key does now, or nothing. */
function meant(event) {
  const pressed = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) return pressed === "z" && !at("filter").value ? undo : null;
  if (event.altKey) return null;
  const empty = !at("filter").value;
  if (pressed === "arrowleft" && empty) return () => move(-1);
  if (pressed === "arrowright" && empty) return () => move(1);
  if (pressed === "?") return () => at("help").showModal();
  if (pressed === "f2") return openNote;
  if (pressed === "enter" && state.sets && empty && event.target.tagName !== "BUTTON") return () => save(written());
  if (state.filter) return meantInFilter(pressed, event);
  const label = state.labels.find((one) => one.keys.includes(pressed));
  if (label) return () => choose(label.name);
  const action = Object.keys(ACTIONS).find((name) => state.keys[name].includes(pressed));
  return action && (action !== "unclear" || state.unclear) ? ACTIONS[action] : null;
}

function meantInFilter(pressed, event) {
  const shown = found();
  if (/^[1-9]$/.test(pressed)) return shown[pressed - 1] ? () => choose(shown[pressed - 1]) : () => {};
  if (pressed === "0" && state.unclear) return ACTIONS.unclear;
  if (pressed === "enter" && event.target === at("filter")) return at("filter").value && shown.length ? () => choose(shown[marked]) : null;
  if (pressed === "arrowdown" || pressed === "arrowup") return () => mark(pressed === "arrowdown" ? 1 : -1);
  if (pressed === "escape") return () => { at("filter").value = ""; marked = 0; showLabels(); };
  if (pressed.length === 1 && pressed !== " " && event.target !== at("filter")) at("filter").focus(); // and types there
  return null;
}

function mark(step) {
  marked += step;
  showLabels();
  at("labels").querySelector(".marked")?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (!state || at("help").open || event.target === at("words") || event.isComposing) return;
  const action = meant(event);
  if (!action) return;
  event.preventDefault();
  if (!event.repeat || /^Arrow/.test(event.key)) action(); // a key held down is one answer
});
at("words").addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeNote();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  keepNote(at("words").value.trim());
});
at("note").addEventListener("submit", (event) => event.preventDefault());
at("filter").addEventListener("input", () => { marked = 0; showLabels(); });
at("back").addEventListener("click", () => move(-1));
at("forth").addEventListener("click", () => move(1));
at("remark").addEventListener("click", openNote);
at("undo").addEventListener("click", undo);
at("keys").addEventListener("click", () => at("help").showModal());

function introduce() {
  at("criterion").textContent = state.criterion;
  at("about").textContent = `${state.title}, as ${state.reviewer}`;
  for (const [id, keys] of [["remark", state.keys.note], ["undo", state.keys.undo]]) {
    if (!state.filter && keys.length) at(id).prepend(key(keys[0]));
  }
  const few = state.labels.map((one) => [one.keys.join(", "), one.name]);
  const many = [["letters", "find a label"], ["1–9", "take one of the first nine found"], ["Enter", "take the marked one"], ["↑ ↓", "mark another"]];
  const rows = [
    ...(state.filter ? many : few),
    ...(state.sets ? [["Enter", `save the labels that are picked, or "${state.sets.none}"`]] : []),
    ...(state.unclear ? [[state.keys.unclear.join(", "), `${spoken(state.unclear)}: none of the labels fits`]] : []),
    ["← →", "back, next"], [[...state.keys.note, "F2"].join(", "), "note"], [[...state.keys.undo, "Ctrl+Z"].join(", "), "take the last answer back"],
  ];
  at("help-keys").replaceChildren(...rows.flatMap(([keys, does]) => [make("dt", {}, key(keys)), make("dd", { textContent: does })]));
}

async function start() {
  state = await ask("state");
  introduce();
  const wanted = Number(location.hash.slice(1)) - 1;
  place = state.items[wanted] ? wanted - 1 : -1;
  await go(following());
}
start().catch((error) => complain(error.message, error.reload)).finally(() => { busy = false; });
