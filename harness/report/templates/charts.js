// Curves by step, curves by frame and the scan of modules, drawn by plotly.js once they come into view.
"use strict";

const charts = JSON.parse(document.getElementById("pair-data").textContent);
const drawn = new Set();
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
let plotly = null;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function library() {
  plotly ??= new Promise((resolve, reject) => {
    const tag = document.createElement("script");
    tag.src = "../assets/plotly.min.js";
    tag.onload = () => resolve(window.Plotly);
    tag.onerror = () => reject(new Error("plotly.min.js is missing beside this page"));
    document.head.append(tag);
  });
  return plotly;
}

function curve(item, seen) {
  const candidate = item.side === "candidate";
  if (!seen.has(item.seed)) seen.set(item.seed, seen.size);
  const of = seen.get(item.seed);
  return {
    x: item.y.map((_, index) => index + item.start),
    y: item.y,
    name: `${item.side}, seed ${item.seed}`,
    showlegend: seen.size <= 8,
    mode: "lines+markers",
    meta: item.seed,
    line: { color: colour(candidate ? "--candidate" : "--floor"), dash: candidate ? "solid" : "dot", width: 2 },
    marker: { size: candidate ? 7 : 6, symbol: candidate ? SYMBOLS[of % SYMBOLS.length] : "x" },
    hovertemplate: `seed ${item.seed}, %{x}: %{y:.4g}<extra>${item.side}</extra>`,
  };
}

function layout(x, y, logarithmic) {
  const axis = { gridcolor: colour("--line"), zeroline: false, automargin: true };
  return {
    height: 320,
    margin: { l: 10, r: 10, t: 30, b: 10 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", color: colour("--text"), size: 13 },
    legend: { orientation: "h", y: 1.14, x: 0 },
    showlegend: true,
    hovermode: "closest",
    xaxis: { ...axis, title: { text: x }, tickformat: "d" },
    yaxis: {
      ...axis,
      title: { text: y },
      ...(logarithmic ? { type: "log", exponentformat: "power", dtick: logarithmic > 2 ? Math.ceil(logarithmic / 8) : "D2" } : {}),
    },
  };
}

// How many decades the values span; at least a little, so that the axis is logarithmic.
function decades(rows) {
  const values = rows.flat().filter((value) => value > 0);
  return Math.max(0.1, Math.log10(Math.max(...values) / Math.min(...values)));
}

const DRAW = {
  steps() {
    const seen = new Map();
    return [charts.steps.map((item) => curve(item, seen)), layout("solver step", "relative L2", decades(charts.steps.map((item) => item.y)))];
  },
  frames() {
    const chart = charts.frames[Number(document.getElementById("quantity").value)];
    const seen = new Map();
    const unit = chart.unit ? `, ${chart.unit}` : "";
    const shape = layout("frame", `${chart.title}${unit} (${chart.better} is better)`, false);
    shape.shapes = [cursor(Number(document.getElementById("frame")?.value || 0))];
    return [chart.curves.map((item) => curve(item, seen)), shape];
  },
  blocks() {
    const { modules, steps, first } = charts.blocks;
    const short = modules.map((name) => name.replace(/^transformer\./, "").replace("transformer_blocks.", ""));
    const every = steps.flatMap((row) => [...row.value, ...row.limit]).filter((value) => value > 0);
    const low = Math.min(...every) / 10;
    const traces = steps.map((row, index) => ({
      x: short, y: row.value, name: `step ${row.step}`, mode: "lines+markers",
      line: { color: colour("--candidate"), width: 1.5 },
      marker: { size: 7, symbol: SYMBOLS[index % SYMBOLS.length] },
      opacity: first && row.step !== first.step ? 0.45 : 1,
      hovertemplate: `%{x}, step ${row.step}: %{y:.3g}<extra></extra>`,
    }));
    if (steps.some((row) => row.equal.some(Boolean))) {
      const at = steps.find((row) => row.step === first?.step) || steps[0];
      traces.push({
        x: short, y: at.equal.map((equal) => (equal ? low : null)), name: "equal in every bit", mode: "markers",
        marker: { size: 6, symbol: "circle-open", color: colour("--muted") },
        hovertemplate: "%{x}: equal<extra></extra>",
      });
    }
    traces.push({
      x: short, y: (steps.find((row) => row.step === first?.step) || steps[0]).limit,
      name: "healthy limit", mode: "lines", line: { color: colour("--floor"), dash: "dash", width: 2 },
      hovertemplate: "%{x}: limit %{y:.3g}<extra></extra>",
    });
    const shape = layout("module, in the order in which they finish", "relative L2", decades([every, [low]]));
    shape.xaxis = { ...shape.xaxis, type: "category", tickangle: -60, tickfont: { size: 10 }, nticks: 36 };
    shape.height = 440;
    if (first) {
      const value = steps.find((row) => row.step === first.step)?.value[modules.indexOf(first.module)];
      if (value) {
        shape.annotations = [{
          x: short[modules.indexOf(first.module)], y: Math.log10(value), yanchor: "bottom",
          text: `first over its limit: ${short[modules.indexOf(first.module)]}`, arrowcolor: colour("--bad"), font: { color: colour("--bad") },
        }];
      }
    }
    return [traces, shape];
  },
};

function cursor(frame) {
  return {
    type: "line", x0: frame, x1: frame, y0: 0, y1: 1, yref: "paper",
    line: { color: colour("--muted"), width: 1, dash: "dot" },
  };
}

async function draw(place) {
  try {
    const Plotly = await library();
    const [traces, shape] = DRAW[place.dataset.chart]();
    await Plotly.react(place, traces, shape, { displayModeBar: false, responsive: true });
    if (place.dataset.chart === "frames" && !drawn.has(place)) {
      place.on("plotly_click", ({ points }) => {
        const detail = { frame: points[0].x, seed: points[0].data.meta };
        document.dispatchEvent(new CustomEvent("seek-seed", { detail }));
      });
    }
    drawn.add(place);
  } catch (error) {
    place.textContent = `This chart cannot be drawn: ${error.message}`;
  }
}

const places = document.querySelectorAll(".chart");
const observer = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        observer.unobserve(target);
        draw(target);
      }
    }
  },
  { rootMargin: "300px" },
);
places.forEach((place) => observer.observe(place));

const redraw = () => drawn.forEach(draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.addEventListener("scheme", redraw);
document.getElementById("quantity")?.addEventListener("change", redraw);
document.addEventListener("frame", ({ detail }) => {
  for (const place of drawn) {
    if (place.dataset.chart === "frames") window.Plotly.relayout(place, { shapes: [cursor(detail)] });
  }
});
addEventListener("beforeprint", () => places.forEach(draw));
