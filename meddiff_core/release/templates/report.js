// Sorts the gates by a click and turns volumes. Reads the page alone: its content policy forbids every request.
"use strict";

function sortBy(column, button) {
  const heading = button.parentElement, body = heading.closest("table").tBodies[0];
  const up = heading.getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[column].dataset.order ?? row.cells[column].textContent.trim();
  const compare = (a, b) => (a === "") - (b === "") || (up ? 1 : -1) * (a - b || a.localeCompare(b));
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
}

for (const heading of document.querySelectorAll("table.sortable th")) {
  const button = document.createElement("button");
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sortBy(heading.cellIndex, button));
  heading.append(button);
}

const base64 = (uri) => uri.slice(uri.indexOf(",") + 1);

async function unpack(uri) {
  const packed = Uint8Array.from(atob(base64(uri)), (character) => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function view(viewer) {
  const chosen = viewer.querySelector("select"), overlay = viewer.querySelector("input");
  const canvas = viewer.querySelector("canvas"), code = document.createElement("script");
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("WebGL 2 is missing");
  code.textContent = await unpack(viewer.dataset.code);
  document.head.append(code);
  viewer.hidden = false;
  const scene = new niivue.Niivue({
    isRadiologicalConvention: true, sagittalNoseLeft: true, // as in the pictures of the page
    multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS, crosshairWidth: 1, crosshairWidthUnit: "mm",
    dragAndDropEnabled: false, logLevel: "error",
  });
  await scene.attachToCanvas(canvas);

  const load = (uri, name) => niivue.NVImage.loadFromBase64({ base64: base64(uri), name: `${name}.nii.gz` });
  async function show() {
    const { image, label } = chosen.selectedOptions[0].dataset;
    const volumes = [await load(image, "image")];
    if (label) {
      volumes.push(await load(label, "label"));
      volumes[1].setColormapLabel(JSON.parse(viewer.dataset.colours));
      volumes[1].opacity = overlay.checked ? 0.5 : 0;
    }
    while (scene.volumes.length) scene.removeVolume(scene.volumes[0]);
    volumes.forEach((volume) => scene.addVolume(volume));
  }
  let last = Promise.resolve(); // one after the other, however fast somebody chooses
  chosen.addEventListener("change", () => (last = last.then(show)));
  overlay?.addEventListener("change", () => scene.setOpacity(1, overlay.checked ? 0.5 : 0));
  await show();
  viewer.dataset.shown = "";
  document.getElementById("no-viewer").hidden = true;
}

for (const viewer of document.querySelectorAll(".viewer")) {
  view(viewer).catch((reason) => {
    console.warn(reason);
    viewer.hidden = true;
  });
}
