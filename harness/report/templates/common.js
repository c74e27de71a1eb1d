// The colour scheme: as the system has it, or as the reader chose. Runs before the page is drawn.
"use strict";

const SCHEMES = ["auto", "light", "dark"];

function remembered() {
  try {
    return localStorage.getItem("parity-scheme") || "auto";
  } catch {
    return "auto"; // storage may be forbidden for files
  }
}

function applyScheme(scheme) {
  if (scheme === "auto") delete document.documentElement.dataset.scheme;
  else document.documentElement.dataset.scheme = scheme;
}

let scheme = remembered();
applyScheme(scheme);

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const show = () => {
    button.textContent = { auto: "◐ auto", light: "☀ light", dark: "☾ dark" }[scheme];
    button.setAttribute("aria-label", `Colour scheme: ${scheme}. Change it`);
  };
  show();
  button.addEventListener("click", () => {
    scheme = SCHEMES[(SCHEMES.indexOf(scheme) + 1) % SCHEMES.length];
    applyScheme(scheme);
    try {
      localStorage.setItem("parity-scheme", scheme);
    } catch {
      // the choice then holds for this page
    }
    show();
    document.dispatchEvent(new Event("scheme"));
  });
});

// What the address says after #, as a map; the pages keep their state there, so that links carry it.
function readHash() {
  return new URLSearchParams(location.hash.slice(1));
}

function writeHash(values) {
  const kept = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== ""));
  const text = kept.toString();
  history.replaceState(history.state, "", text ? `#${text}` : location.pathname + location.search);
}

// A place that was jumped to stays in view while what stands above it is still being drawn, until the
// reader scrolls.
document.addEventListener("click", ({ target }) => {
  const name = target.closest?.('a[href^="#"]')?.getAttribute("href").slice(1);
  const place = name && document.getElementById(name);
  if (!place) return;
  const drawn = new ResizeObserver(() => place.scrollIntoView());
  const stop = () => drawn.disconnect();
  drawn.observe(document.body);
  setTimeout(stop, 3000);
  for (const sign of ["wheel", "touchmove", "keydown", "pointerdown"]) addEventListener(sign, stop, { once: true });
});
