// What answers in the page of a report. A figure is shown only once it is filled.

function openReport() {
  theme();
  const data = JSON.parse(document.getElementById("dg-data").textContent);
  for (const place of document.querySelectorAll("[data-live]")) {
    const given = data[place.dataset.live];
    if (!given) continue;
    const box = make("div", "");
    place.prepend(box);
    place.hidden = false;
    if (place.dataset.live === "run") keptCapturePage(given, box);
    else keptEdge(stripOf(given), box);
  }
}

// The strip's pictures are in its drawing: they are not in the page twice.
function stripOf({ figure, titles, notes, left, right }) {
  const images = [...document.querySelectorAll(`#${figure} image`)].map((i) => i.getAttribute("xlink:href"));
  const named = (values) => Object.fromEntries(titles.map((title, i) => [title, values[i] ?? ""]));
  return { pictures: named(images), notes: named(notes), left, right, pixelated: images.every((i) => i.startsWith("data:image/png")) };
}
