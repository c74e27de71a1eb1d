// The player: two lossless videos on canvases, always the same frame, the same piece, the same zoom.
// Frames come as PNGs inside scripts (parityFrames), because a page opened from a file may not read
// the pixels of an image file beside it.
"use strict";

const data = JSON.parse(document.getElementById("pair-data").textContent);
const reels = new Map(); // "name/script" -> promise of a list of images
const arrivals = new Map();

function parityFrames(name, script, pictures) {
  arrivals.get(`${name}/${script}`)?.(pictures);
}

function loadScript(reel, script) {
  const id = `${reel.name}/${script}`;
  if (!reels.has(id)) {
    const arrived = new Promise((resolve, reject) => {
      arrivals.set(id, resolve);
      const tag = document.createElement("script");
      tag.src = `../assets/frames/${reel.scripts[script]}`;
      tag.onerror = () => reject(new Error(`${reel.scripts[script]} is missing beside this page`));
      document.head.append(tag);
    });
    reels.set(id, arrived.then((pictures) => Promise.all(pictures.map(decode))));
  }
  return reels.get(id);
}

async function decode(base64) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  return image;
}

async function picture(reel, frame) {
  const script = Math.floor(frame / reel.per_script);
  if (script >= reel.scripts.length) return null;
  return (await loadScript(reel, script))[frame % reel.per_script] || null;
}

// Cividis by nine anchors (Nunez, Anderton, Renslow 2018): even in lightness for every eye.
const CIVIDIS = [
  [0, 34, 78], [27, 56, 110], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [166, 157, 117], [200, 183, 101], [254, 232, 56],
];

function heatColour(part) {
  const at = Math.min(1, part) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(at));
  return CIVIDIS[low].map((value, i) => value + (CIVIDIS[low + 1][i] - value) * (at - low));
}

class Player {
  constructor(films) {
    this.films = films;
    this.film = films[0];
    this.frame = 0;
    this.mode = "side";
    this.zoom = 1;
    this.centre = [0.5, 0.5];
    this.marked = null;
    this.playing = null;
    this.blink = null;
    this.shownB = false;
    this.stage = document.getElementById("stage");
    this.canvases = ["a", "b"].map((side) => document.getElementById(`canvas-${side}`));
    this.captions = this.canvases.map((canvas) => canvas.parentElement.querySelector("figcaption"));
    this.titles = this.captions.map((caption) => caption.textContent);
    this.heatLut = Array.from({ length: 256 }, (_, i) => heatColour(i / 255));
    this.turn = 0;
  }

  get comparable() {
    return this.film.comparable;
  }

  choose(index) {
    this.film = this.films[index] || this.films[0];
    document.getElementById("seed").value = String(this.films.indexOf(this.film));
    document.getElementById("frame").max = this.film.frames - 1;
    document.getElementById("film-remark").textContent = this.film.remark;
    document.getElementById("gain").value = String(Math.min(128, this.film.gain));
    for (const button of document.querySelectorAll("[data-mode]")) {
      button.disabled = !this.comparable && button.dataset.mode !== "side";
    }
    if (!this.comparable) this.setMode("side");
    return this.seek(this.frame);
  }

  setMode(mode) {
    if (!this.comparable && mode !== "side") return;
    this.mode = mode;
    this.stage.dataset.mode = mode;
    for (const button of document.querySelectorAll("[data-mode]")) {
      if (button === this.stage) continue;
      button.setAttribute("aria-checked", String(button.dataset.mode === mode));
      button.tabIndex = button.dataset.mode === mode ? 0 : -1;
    }
    clearInterval(this.blink);
    if (mode === "blink") {
      this.blink = setInterval(() => {
        this.shownB = !this.shownB;
        this.draw();
      }, 500);
    }
    this.resize();
    this.draw();
    this.remember();
  }

  async seek(frame) {
    this.frame = Math.max(0, Math.min(this.film.frames - 1, frame));
    const turn = ++this.turn;
    try {
      const pictures = await Promise.all([
        picture(this.film.reference, this.frame),
        picture(this.film.candidate, this.frame),
      ]);
      if (turn !== this.turn) return; // a later seek has overtaken this one
      this.pictures = pictures;
    } catch (error) {
      document.getElementById("film-remark").textContent = `The frames cannot be shown: ${error.message}`;
      return;
    }
    document.getElementById("frame").value = this.frame;
    document.getElementById("frame-shown").value = `frame ${this.frame} of ${this.film.frames - 1}`;
    this.pixels = null;
    this.resize();
    this.draw();
    this.remember();
    document.dispatchEvent(new CustomEvent("frame", { detail: this.frame }));
  }

  // The bytes of both frames, read once a frame and only where something needs them.
  read() {
    if (!this.pixels) {
      this.pixels = this.pictures.map((image) => {
        if (!image) return null;
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        return context.getImageData(0, 0, canvas.width, canvas.height);
      });
    }
    return this.pixels;
  }

  // Small videos are enlarged by a whole factor, so that pixels stay squares.
  resize() {
    const { width, height } = this.film;
    const panes = this.mode === "side" ? 2 : 1;
    const room = Math.max(160, (this.stage.clientWidth - 40) / panes);
    const scale = Math.min(room / width, Math.max(240, innerHeight * 0.6) / height);
    const factor = scale >= 1 ? Math.floor(scale) : scale;
    for (const canvas of this.canvases) {
      canvas.width = Math.round(width * factor);
      canvas.height = Math.round(height * factor);
    }
  }

  // The piece of the frame that is seen: [x, y, width, height] in pixels of the video.
  piece() {
    const { width, height } = this.film;
    const [w, h] = [width / this.zoom, height / this.zoom];
    const clamp = (centre, part, whole) => Math.min(Math.max(centre * whole - part / 2, 0), whole - part);
    return [clamp(this.centre[0], w, width), clamp(this.centre[1], h, height), w, h];
  }

  draw() {
    if (!this.pictures) return;
    const [a, b] = this.canvases.map((canvas) => canvas.getContext("2d"));
    const gain = Number(document.getElementById("gain").value);
    const top = Number(document.getElementById("scale").value);
    this.captions[1].textContent = this.titles[1];
    if (this.mode === "side") {
      this.paint(a, this.pictures[0]);
      this.paint(b, this.pictures[1]);
    } else if (this.mode === "wipe") {
      const at = Number(document.getElementById("wipe").value) / 100;
      this.paint(b, this.pictures[0]);
      b.save();
      b.beginPath();
      b.rect(b.canvas.width * at, 0, b.canvas.width, b.canvas.height);
      b.clip();
      this.paint(b, this.pictures[1]);
      b.restore();
      b.fillStyle = "#fff";
      b.fillRect(b.canvas.width * at - 1, 0, 2, b.canvas.height);
      this.captions[1].textContent = `left of the line: ${this.titles[0]}; right: ${this.titles[1]}`;
    } else if (this.mode === "blink") {
      this.paint(b, this.pictures[this.shownB ? 1 : 0]);
      this.captions[1].textContent = this.titles[this.shownB ? 1 : 0];
    } else {
      const heat = this.mode === "heat";
      this.paint(b, this.compared(heat ? (gap) => this.heatLut[Math.min(255, Math.round((255 * Math.max(...gap)) / top))] : (gap) => gap.map((value) => value * gain)));
      this.captions[1].textContent = heat
        ? `largest difference, 0 to ${top} grey levels; what is larger has the last colour`
        : `absolute difference x ${gain}; white is ${(255 / gain).toFixed(1)} grey levels or more`;
    }
    this.mark();
  }

  paint(context, image) {
    const { canvas } = context;
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (image) context.drawImage(image, ...this.piece(), 0, 0, canvas.width, canvas.height);
  }

  compared(colour) {
    const [a, b] = this.read();
    const canvas = new OffscreenCanvas(a.width, a.height);
    const out = new ImageData(a.width, a.height);
    const cache = new Map();
    for (let i = 0; i < a.data.length; i += 4) {
      const gap = [0, 1, 2].map((c) => Math.abs(a.data[i + c] - b.data[i + c]));
      const key = gap[0] | (gap[1] << 8) | (gap[2] << 16);
      if (!cache.has(key)) cache.set(key, colour(gap));
      const [red, green, blue] = cache.get(key);
      out.data[i] = red;
      out.data[i + 1] = green;
      out.data[i + 2] = blue;
      out.data[i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(out, 0, 0);
    return canvas;
  }

  mark() {
    if (!this.marked) return;
    const [left, up, width, height] = this.piece();
    for (const canvas of this.canvases) {
      const size = canvas.width / width;
      const x = (this.marked[0] - left) * size;
      const y = ((this.marked[1] - up) * canvas.height) / height;
      const context = canvas.getContext("2d");
      for (const [colour, grow] of [["#000", 1.5], ["#fff", 0.5]]) {
        context.strokeStyle = colour;
        context.lineWidth = 1;
        context.strokeRect(x - grow, y - grow, Math.max(3, size) + 2 * grow, Math.max(3, size) + 2 * grow);
      }
    }
    const at = (image) => {
      if (!image || this.marked[0] >= image.width || this.marked[1] >= image.height) return null;
      const i = 4 * (this.marked[1] * image.width + this.marked[0]);
      return [...image.data.slice(i, i + 3)];
    };
    const [a, b] = this.read().map(at);
    const text = (values) => (values ? `(${values.join(", ")})` : "none");
    const signed = a && b ? `(${a.map((v, c) => (b[c] > v ? "+" : "") + (b[c] - v)).join(", ")})` : "none";
    document.getElementById("pixel").textContent =
      `x ${this.marked[0]}, y ${this.marked[1]}, frame ${this.frame}: reference ${text(a)}, candidate ${text(b)}, difference ${signed}`;
  }

  point(event) {
    const canvas = event.currentTarget;
    const [left, up, width, height] = this.piece();
    const box = canvas.getBoundingClientRect();
    this.marked = [
      Math.floor(left + ((event.clientX - box.left) / box.width) * width),
      Math.floor(up + ((event.clientY - box.top) / box.height) * height),
    ];
    this.draw();
  }

  zoomBy(factor) {
    this.zoom = Math.min(32, Math.max(1, this.zoom * factor));
    if (this.marked && factor > 1) {
      this.centre = [(this.marked[0] + 0.5) / this.film.width, (this.marked[1] + 0.5) / this.film.height];
    }
    this.draw();
  }

  play() {
    const button = document.getElementById("play");
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = null;
    } else {
      this.playing = setInterval(() => this.seek((this.frame + 1) % this.film.frames), 1000 / this.film.fps);
    }
    button.textContent = this.playing ? "⏸" : "▶";
    button.setAttribute("aria-label", this.playing ? "Pause" : "Play");
  }

  remember() {
    if (!this.ready || this.playing) return;
    writeHash({ seed: this.film.seed, frame: this.frame, view: this.mode });
  }

  restore() {
    const hash = readHash();
    if (!hash.has("frame") && !hash.has("seed")) return false;
    const index = this.films.findIndex((film) => String(film.seed) === hash.get("seed"));
    this.frame = Number.parseInt(hash.get("frame"), 10) || 0;
    this.choose(Math.max(0, index));
    if (document.querySelector(`[data-mode="${CSS.escape(hash.get("view") || "side")}"]`)) this.setMode(hash.get("view") || "side");
    return true;
  }

  key(event) {
    if (event.target.matches("select, input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.shiftKey && arrows[event.key]) {
      const from = this.marked || [Math.floor(this.film.width / 2), Math.floor(this.film.height / 2)];
      const last = [this.film.width - 1, this.film.height - 1];
      this.marked = from.map((value, i) => Math.min(last[i], Math.max(0, value + arrows[event.key][i])));
      this.draw();
      event.preventDefault();
      return;
    }
    const act = {
      ArrowRight: () => this.seek(this.frame + 1),
      ArrowLeft: () => this.seek(this.frame - 1),
      Home: () => this.seek(0),
      End: () => this.seek(this.film.frames - 1),
      " ": () => event.target.matches("button") || this.play(),
      1: () => this.setMode("side"),
      2: () => this.setMode("wipe"),
      3: () => this.setMode("blink"),
      4: () => this.setMode("difference"),
      5: () => this.setMode("heat"),
      "+": () => this.zoomBy(1.5),
      "=": () => this.zoomBy(1.5),
      "-": () => this.zoomBy(1 / 1.5),
      0: () => this.zoomBy(0),
    }[event.key];
    if (!act) return;
    if (event.key !== " " || !event.target.matches("button")) event.preventDefault();
    act();
  }

  listen() {
    const on = (id, type, act) => document.getElementById(id).addEventListener(type, act);
    on("play", "click", () => this.play());
    on("back-frame", "click", () => this.seek(this.frame - 1));
    on("next-frame", "click", () => this.seek(this.frame + 1));
    on("frame", "input", (event) => this.seek(Number(event.target.value)));
    on("seed", "change", (event) => this.choose(Number(event.target.value)));
    on("gain", "change", () => this.draw());
    on("scale", "change", () => {
      document.getElementById("legend-high").textContent = document.getElementById("scale").value;
      this.draw();
    });
    on("wipe", "input", () => this.draw());
    for (const button of this.stage.querySelectorAll("button[data-mode]")) {
      button.addEventListener("click", () => this.setMode(button.dataset.mode));
    }
    this.stage.addEventListener("keydown", (event) => this.key(event));
    for (const canvas of this.canvases) {
      canvas.addEventListener("pointermove", (event) => {
        if (event.buttons & 1 && this.zoom > 1) {
          const [, , width, height] = this.piece();
          this.centre[0] -= ((event.movementX / canvas.clientWidth) * width) / this.film.width;
          this.centre[1] -= ((event.movementY / canvas.clientHeight) * height) / this.film.height;
          this.centre = this.centre.map((value) => Math.min(1, Math.max(0, value)));
        }
        this.point(event);
      });
      canvas.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && document.activeElement !== this.stage) return; // the page scrolls
        event.preventDefault();
        this.point(event);
        this.zoomBy(event.deltaY < 0 ? 1.25 : 0.8);
      }, { passive: false });
    }
    for (const link of document.querySelectorAll("a.seek")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        const index = this.films.findIndex((film) => String(film.seed) === link.dataset.seed);
        this.frame = Number(link.dataset.frame);
        this.choose(Math.max(0, index));
        document.getElementById("player").scrollIntoView();
        this.stage.focus({ preventScroll: true });
      });
    }
    addEventListener("hashchange", () => this.restore());
    addEventListener("resize", () => {
      this.resize();
      this.draw();
    });
    const legend = document.getElementById("legend").getContext("2d");
    this.heatLut.forEach((colour, i) => {
      legend.fillStyle = `rgb(${colour.join(",")})`;
      legend.fillRect(i, 0, 1, 1);
    });
  }
}

// Frames are fetched once the player comes near the window, or a link asks for one.
function startPlayer() {
  const player = new Player(data.films);
  player.listen();
  document.addEventListener("seek", (event) => player.seek(event.detail));
  document.addEventListener("seek-seed", (event) => {
    const index = player.films.findIndex((film) => film.seed === event.detail.seed);
    player.frame = event.detail.frame;
    player.choose(Math.max(0, index));
  });
  const begin = () => {
    if (player.ready) return;
    player.setMode("side");
    if (!player.restore()) {
      player.frame = player.film.worst_frame ?? 0;
      player.choose(0);
    }
    player.ready = true;
  };
  if (readHash().has("frame")) begin();
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && begin(), {
    rootMargin: "600px",
  }).observe(player.stage);
  addEventListener("beforeprint", begin);
}

if (data.films.length) startPlayer();
