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

// ---- what is far away waits; what is printed is all of it ----

function dataOf(element) {
  const script = element.querySelector('script[type^="application/"]');
  if (script.type === "application/json") return JSON.parse(script.textContent);
  const bytes = Uint8Array.from(atob(script.textContent), (character) => character.charCodeAt(0));
  return JSON.parse(pako.inflate(bytes, { to: "string" }));
}

const tables = [];
const waiting = new Map();
for (const figure of drawings) waiting.set(figure, () => draw(figure, dataOf(figure)));
for (const sheet of document.querySelectorAll(".sheet:not(.tree)")) {
  waiting.set(sheet, () => tables.push(new Sheet(sheet, dataOf(sheet))));
}
const stack = document.querySelector(".stack");
const tree = document.querySelector(".tree");
if (stack) {
  // Both show one tree, whose data is in the first.
  waiting.set(stack, () => new Stack(stack, grown(dataOf(stack))));
  if (tree) waiting.set(tree, () => tables.push(new Tree(tree, grown(dataOf(stack)))));
}

function make(element) {
  const made = waiting.get(element);
  waiting.delete(element);
  if (made) made();
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    make(entry.target);
  }
}, { rootMargin: "400px" });
for (const element of waiting.keys()) near.observe(element);
document.documentElement.dataset.read = "yes";

window.addEventListener("beforeprint", () => {
  for (const element of Array.from(waiting.keys())) make(element);
  for (const table of tables) table.showAll(true);
});
window.addEventListener("afterprint", () => { for (const table of tables) table.showAll(false); });

const links = new Map(Array.from(document.querySelectorAll("nav a"), (link) => [link.hash.slice(1), link]));
const here = new IntersectionObserver((entries) => {
  for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
}, { rootMargin: "-45% 0px -54% 0px" });
for (const section of document.querySelectorAll("section")) here.observe(section);
