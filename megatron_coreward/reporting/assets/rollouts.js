"use strict";
// Chooses a run, step and pair, and shows its responses. Uses html() and format() of charts.js; texts of the runs go in
// through textContent alone.

const chooser = document.getElementById("chooser");

function fill(select, entries, wanted) {
  select.replaceChildren();
  for (const [value, text] of entries) html("option", "", text, select).value = value;
  // keep the choice across runs and steps where it is there, so that they can be compared
  if (entries.some(([value]) => String(value) === wanted)) select.value = wanted;
}

function stepData() {
  const { run, step } = chooser.elements;
  return JSON.parse(document.getElementById(`rollouts-${run.value}-${step.value}`).textContent);
}

function mean(values) {
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : 0;
}

function pairTitle(pair) {
  const rewards = pair.groups.flatMap((group) => group.responses.map((response) => response.reward));
  return `${pair.pair_id} (mean reward ${format(mean(rewards))})`;
}

function chooseRun() {
  const { run, step } = chooser.elements;
  fill(step, DATA.runs[run.value].rollouts.map((one) => [one.step, one.step]), step.value);
  chooseStep();
}

function chooseStep() {
  const { pair } = chooser.elements;
  fill(pair, stepData().pairs.map((one) => [one.pair_id, pairTitle(one)]), pair.value);
  showPair();
}

function movePair(by) {
  const { pair } = chooser.elements;
  const count = pair.options.length;
  pair.selectedIndex = (pair.selectedIndex + by + count) % count;
  showPair();
}

function showPair() {
  const reader = document.getElementById("reader");
  reader.replaceChildren();
  const data = stepData();
  const pair = data.pairs.find((one) => String(one.pair_id) === chooser.elements.pair.value);
  if (!pair) {
    html("p", "note", "This step has no responses.", reader);
    return;
  }
  const truth = html("p", "truth", undefined, reader);
  if (pair.ground_truth === null) html("span", "note", "No ground truth.", truth);
  else {
    truth.append("ground truth ");
    html("b", "", pair.ground_truth, truth);
    html("span", "note", "  (diagnostics)", truth);
  }
  const groups = html("div", "groups", undefined, reader);
  for (const group of pair.groups) showGroup(group, html("div", "", undefined, groups));
}

function showGroup(group, box) {
  html("h3", "", group.view === "original" ? "original question" : "rephrasing", box);
  html("p", "question", group.question, box);
  showVotes(group, box);
  for (const response of group.responses) showResponse(response, box);
}

function showVotes(group, box) {
  const votes = html("div", "votes", undefined, box);
  const most = Math.max(...group.votes.map(([, count]) => count));
  for (const [answer, count] of group.votes) {
    const isLabel = answer !== "" && answer === group.label;
    const row = html("div", isLabel ? "label" : "", undefined, votes);
    html("span", "answer", answer === "" ? "no answer" : answer, row);
    const share = html("span", "", undefined, row);
    html("span", "bar", undefined, share).style.width = `${(55 * count) / most}%`;
    share.append(String(count));
  }
  const judged = html("p", "note", group.label === "" ? "no label" : "judged by the label ", box);
  if (group.label !== "") html("b", "", group.label, judged);
}

function signed(value) {
  return `${value > 0 ? "+" : ""}${format(value)}`;
}

function showResponse(response, box) {
  const node = html("div", "response", undefined, box);
  const facts = html("div", "facts", undefined, node);
  html("span", "", `#${response.sample}`, facts);
  const answer = html("span", "", "answer ", facts);
  html("b", "", response.answer === "" ? "none" : response.answer, answer);
  html("span", "", `reward ${format(response.reward)}`, facts);
  const sign = response.advantage > 0 ? "good" : response.advantage < 0 ? "bad" : "";
  html("span", sign, `advantage ${signed(response.advantage)}`, facts);
  html("span", "", `${response.response_tokens} tokens`, facts);
  html("span", response.finish_reason === "length" ? "bad" : "", `finish: ${response.finish_reason}`, facts);
  if (response.mean_logp !== null) html("span", "", `log-prob ${format(response.mean_logp)}`, facts);
  html("pre", "", response.text, node);
}

if (chooser) {
  const { run, step, pair, previous, next } = chooser.elements;
  const readable = [...DATA.runs.entries()].filter(([, one]) => one.rollouts.length);
  fill(run, readable.map(([number, one]) => [number, one.name]));
  run.addEventListener("change", chooseRun);
  step.addEventListener("change", chooseStep);
  pair.addEventListener("change", showPair);
  previous.addEventListener("click", () => movePair(-1));
  next.addEventListener("click", () => movePair(1));
  chooser.addEventListener("submit", (event) => event.preventDefault());
  chooseRun();
}
