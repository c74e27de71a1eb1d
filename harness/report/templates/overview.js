// Filters, search and arrow keys of the overview. The state is in the address, so links carry it.
"use strict";

const form = document.getElementById("filters");
const rows = [...document.querySelectorAll("#pairs tbody tr")];
const cells = [...document.querySelectorAll("#grid a.cell")];
const chips = [...document.querySelectorAll(".chip")];

function pressed() {
  return chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.verdict);
}

function state() {
  return {
    verdict: pressed().join(","),
    case: form.elements.case.value,
    candidate: form.elements.candidate.value,
    q: form.elements.q.value.trim(),
  };
}

function filter() {
  const wanted = state();
  const verdicts = new Set(pressed());
  const words = wanted.q.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = new Set();
  for (const row of rows) {
    const fits =
      (!verdicts.size || verdicts.has(row.dataset.verdict)) &&
      (!wanted.case || row.dataset.case === wanted.case) &&
      (!wanted.candidate || row.dataset.candidate === wanted.candidate) &&
      words.every((word) => row.dataset.text.includes(word));
    row.hidden = !fits;
    if (fits) shown.add(row.dataset.id);
  }
  for (const cell of cells) cell.classList.toggle("dim", !shown.has(cell.dataset.id));
  document.getElementById("count").value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} pairs`;
  document.getElementById("nothing").hidden = shown.size > 0;
  writeHash(wanted);
}

function restore() {
  const hash = readHash();
  const verdicts = new Set((hash.get("verdict") || "").split(","));
  for (const chip of chips) chip.setAttribute("aria-pressed", String(verdicts.has(chip.dataset.verdict)));
  for (const name of ["case", "candidate", "q"]) form.elements[name].value = hash.get(name) || "";
  filter();
}

// Arrow keys move from cell to cell of the matrix, past the empty ones.
function move(event) {
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  const from = event.target.closest("td");
  if (!step || !from) return;
  const body = from.closest("tbody");
  let [y, x] = [from.parentElement.sectionRowIndex + step[0], from.cellIndex + step[1]];
  while (body.rows[y] && x > 0 && body.rows[y].cells[x]) {
    const link = body.rows[y].cells[x].querySelector("a");
    if (link) {
      link.focus();
      event.preventDefault();
      return;
    }
    y += step[0];
    x += step[1];
  }
}

if (form) {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => {
    chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    setTimeout(filter);
  });
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.matches("input, select")) {
      form.elements.q.focus();
      event.preventDefault();
    }
  });
  document.getElementById("grid").addEventListener("keydown", move);
  addEventListener("hashchange", restore);
  restore();
}
