// ---- figures: drawn in the colours that the reader's system asks for ----

const looks = JSON.parse(document.getElementById("xsp-looks").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const look = () => (dark.matches ? looks.dark : looks.light);

function draw(figure, { data, layout }) {
  figure.dataset.drawn = "yes";
  // Its buttons would be forty tab stops; dragging zooms, a double click goes back.
  Plotly.newPlot(figure.querySelector(".plot"), data, { ...layout, template: look() }, {
    displayModeBar: false, responsive: true,
  });
}

const drawings = Array.from(document.querySelectorAll("figure:not(.empty)"));
dark.addEventListener("change", () => {
  for (const figure of drawings) {
    if (figure.dataset.drawn) Plotly.relayout(figure.querySelector(".plot"), { template: look() });
  }
});

// ---- what is far away waits; data is read in the background, so that all of it can be printed ----

const held = (element) => element.querySelector('script[type^="application/"]');
const isText = (element) => held(element).type === "application/json";
const bytesOf = (element) => Uint8Array.from(atob(held(element).textContent), (character) => character.charCodeAt(0));

async function parsed(element) {
  if (isText(element)) return JSON.parse(held(element).textContent);
  const stream = new Blob([bytesOf(element)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

function parsedNow(element) {
  const text = isText(element) ? held(element).textContent : new TextDecoder().decode(inflated(bytesOf(element)));
  return JSON.parse(text);
}

const tables = [];
const parts = new Map();
for (const figure of drawings) parts.set(figure, { make: (data) => draw(figure, data) });
for (const sheet of document.querySelectorAll(".sheet:not(.tree)")) {
  parts.set(sheet, { make: (data) => tables.push(new Sheet(sheet, data)) });
}
const stack = document.querySelector(".stack");
const tree = document.querySelector(".tree");
if (stack) {
  // Both show one tree, whose data is in the first.
  parts.set(stack, { make: (data) => { new Stack(stack, grown(data)); } });
  if (tree) parts.set(tree, { from: stack, make: (data) => tables.push(new Tree(tree, grown(data))) });
}

function need(element) {
  const part = parts.get(element);
  if (!part || part.made) return;
  part.wanted = true;
  if (part.data === undefined) return;
  part.made = true;
  part.make(part.data);
}

const inOrder = () => Array.from(parts.keys()).sort((a, b) => (
  a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1
));

async function readAll() {
  for (const element of inOrder()) {
    const part = parts.get(element);
    if (part.data === undefined) part.data = part.from ? parts.get(part.from).data : await parsed(element);
    if (part.wanted) need(element);
  }
  document.documentElement.dataset.read = "yes";
}

// Whoever prints before all is read gets all of it a little later.
function readNow() {
  for (const element of inOrder()) {
    const part = parts.get(element);
    if (part.data === undefined) part.data = part.from ? parts.get(part.from).data : parsedNow(element);
    need(element);
  }
  document.documentElement.dataset.read = "yes";
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    need(entry.target);
  }
}, { rootMargin: "400px" });
for (const element of parts.keys()) near.observe(element);
readAll();

window.addEventListener("beforeprint", () => {
  readNow();
  for (const table of tables) table.showAll(true);
});
window.addEventListener("afterprint", () => { for (const table of tables) table.showAll(false); });

const links = new Map(Array.from(document.querySelectorAll("nav a"), (link) => [link.hash.slice(1), link]));
const here = new IntersectionObserver((entries) => {
  for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
}, { rootMargin: "-45% 0px -54% 0px" });
for (const section of document.querySelectorAll("section")) here.observe(section);
