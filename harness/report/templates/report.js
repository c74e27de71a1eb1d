// Draws each pair's divergence with plotly.js once it comes into view, in the page's own colours.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Set();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function traces(curves) {
  const seen = new Set();
  return curves.map((curve) => {
    const candidate = curve.side === "candidate";
    const first = !seen.has(curve.side);
    seen.add(curve.side);
    return {
      x: curve.y.map((_, step) => step),
      y: curve.y,
      name: curve.side,
      legendgroup: curve.side,
      showlegend: first,
      mode: "lines+markers",
      line: {
        color: colour(candidate ? "--candidate" : "--floor"),
        dash: candidate ? "solid" : "dot",
        width: 2,
      },
      marker: { size: 5, symbol: candidate ? "circle" : "x" },
      hovertemplate: `seed ${curve.seed}, step %{x}: %{y:.3g}<extra>${curve.side}</extra>`,
    };
  });
}

function layout() {
  const axis = { gridcolor: colour("--line"), zeroline: false, automargin: true };
  return {
    height: 300,
    margin: { l: 10, r: 10, t: 30, b: 10 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", color: colour("--text") },
    legend: { orientation: "h", y: 1.14, x: 0 },
    showlegend: true,
    xaxis: { ...axis, title: { text: "solver step" }, tickformat: "d" },
    yaxis: {
      ...axis,
      type: "log",
      title: { text: "relative L2" },
      exponentformat: "power",
      dtick: "D1",
    },
  };
}

function draw(chart) {
  const curves = JSON.parse(document.getElementById(chart.dataset.curves).textContent);
  Plotly.react(chart, traces(curves), layout(), { displayModeBar: false, responsive: true });
  drawn.add(chart);
}

const observer = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        observer.unobserve(target);
        draw(target);
      }
    }
  },
  { rootMargin: "400px" },
);

for (const chart of document.querySelectorAll(".chart")) observer.observe(chart);
dark.addEventListener("change", () => drawn.forEach(draw));
addEventListener("beforeprint", () => document.querySelectorAll(".chart").forEach(draw));
