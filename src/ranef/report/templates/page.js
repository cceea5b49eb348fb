"use strict";
// A point of a picture says what it is: on hover, on a click that keeps it, by arrow keys.
for (const picture of document.querySelectorAll("[data-points]")) {
  const points = JSON.parse(picture.dataset.points);
  const [image, ring, tip] = ["img", ".ring", ".tip"].map((s) => picture.querySelector(s));
  const reach = 28;
  let shown = -1;
  let kept = false;

  const hide = () => { ring.hidden = tip.hidden = true; shown = -1; };

  const show = (index) => {
    const [x, y, text] = points[index];
    const [left, top] = [x * image.clientWidth, y * image.clientHeight];
    shown = index;
    tip.textContent = text;
    ring.hidden = tip.hidden = false;
    ring.style.left = `${left}px`;
    ring.style.top = `${top}px`;
    tip.style.left = `${Math.max(0, Math.min(left + 12, image.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${top > tip.offsetHeight + 14 ? top - tip.offsetHeight - 12 : top + 14}px`;
  };

  const nearest = (event) => {
    const box = image.getBoundingClientRect();
    let best = -1;
    let least = reach * reach;
    points.forEach(([x, y], index) => {
      const across = x * box.width - (event.clientX - box.left);
      const down = y * box.height - (event.clientY - box.top);
      const distance = across * across + down * down;
      if (distance < least) { least = distance; best = index; }
    });
    return best;
  };

  picture.addEventListener("pointermove", (event) => {
    if (kept) return;
    const index = nearest(event);
    if (index < 0) hide(); else show(index);
  });
  picture.addEventListener("pointerleave", () => { if (!kept) hide(); });
  picture.addEventListener("click", (event) => {
    const index = nearest(event);
    kept = index >= 0 && !(kept && index === shown);
    if (index < 0) hide(); else show(index);
  });
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { kept = false; hide(); }
    if (!step) return;
    event.preventDefault();
    kept = true;
    show((Math.max(shown, step > 0 ? -1 : 0) + step + points.length) % points.length);
  });
}
