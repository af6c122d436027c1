// What the browser does by itself: keys, the address, the time cursor and window, movement of ranks.
(() => {
  const byId = (id) => document.getElementById(id);

  // ---- The address names the view, so that it can be sent to a friend.
  function writeAddress(choices) {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(choices))
      value === "" ? query.delete(name) : query.set(name, value);
    const written = query.size ? `?${query}` : "";
    history.replaceState(history.state, "", location.pathname + written + location.hash);
  }

  // The picture before or after this one; without `by` any other.
  function neighbour(picture, by) {
    const ids = JSON.parse(byId("ids").dataset.ids);
    by ??= 1 + Math.floor(Math.random() * (ids.length - 1));
    return ids[(ids.indexOf(picture) + by + ids.length) % ids.length];
  }

  // A region goes off as a whole; where all of it is off already, it comes back.
  function toggleRegion(on, region) {
    const others = on.filter((name) => !region.includes(name));
    return others.length < on.length ? others : [...on, ...region];
  }

  // The tab that it names is open before gradio draws the first one; the server says where there is
  // no such tab.
  const parts = window.gradio_config?.components ?? [];
  const tabs = parts.filter(({ type }) => type === "tabitem").map(({ props }) => props.id);
  const named = new URLSearchParams(location.search).get("tab");
  let opened = tabs.includes(named) ? named : tabs[0];
  for (const { type, props } of parts) if (type === "tabs") props.selected = opened;
  function openedTab(tab) {
    if (tab === opened) return; // as at the start
    opened = tab;
    writeAddress({ tab: tab === tabs[0] ? "" : tab });
  }

  let presses = 0;
  const pressed = () => String((presses += 1));

  window.nicePage = { writeAddress, openedTab, neighbour, toggleRegion, pressed };

  // A button in a text that presses one of the controls.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-press]");
    if (button) byId(button.dataset.press)?.click();
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("#copy-link");
    if (!button) return;
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = "Link copied";
    } catch {
      button.textContent = "Copy it from the address bar";
    }
    setTimeout(() => (button.textContent = said), 2000);
  });

  // The example under About names the page's own address.
  function nameAddress() {
    const here = document.querySelector(".about .here");
    const address = location.origin + location.pathname;
    if (here && here.textContent !== address) here.textContent = address;
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("#open-api")) document.querySelector("footer .show-api")?.click();
  });

  // ---- Whoever goes to the list of pictures means to type a new name, not to lengthen the old one.
  for (const how of ["focusin", "click"]) {
    document.addEventListener(how, ({ target }) => {
      if (target.matches?.("#picture input")) requestAnimationFrame(() => target.select());
    });
  }

  // ---- Only one explanation is open at a time; a click elsewhere or Escape closes it.
  function closeExplanations(except) {
    for (const open of document.querySelectorAll("details.help[open], details.badge[open]"))
      if (open !== except) open.open = false;
  }
  document.addEventListener("click", (event) => closeExplanations(event.target.closest("details")));

  // ---- Where too many ask at once, the server refuses. The page says so and asks again by itself,
  // ever more rarely; gradio's own script would give up with an error.
  const ask = window.fetch;
  let refused = 0;
  function sayBusy() {
    if (byId("busy")) return;
    const notice = document.createElement("p");
    notice.id = "busy";
    notice.className = "notice error";
    notice.setAttribute("role", "status");
    document.body.append(notice); // before its text, or it isn't read out
    notice.textContent =
      "Many people are looking at this page right now. What you chose will be shown in a moment: the page asks again by itself.";
  }
  window.fetch = async (...request) => {
    let answer = await ask(...request);
    const isFull = () => answer.status === 503 && answer.headers.has("retry-after");
    if (!isFull()) return answer;
    refused += 1;
    try {
      for (let seconds = 2; isFull(); seconds = Math.min(1.5 * seconds, 15)) {
        sayBusy();
        // Not all at the same moment.
        await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (0.5 + Math.random())));
        answer = await ask(...request);
      }
      return answer;
    } finally {
      refused -= 1;
      if (!refused) byId("busy")?.remove();
    }
  };

  // ---- Keys: ← → picture, ↑ ↓ repetitions, space surprise.
  function stepRepetitions(by) {
    const choices = [...document.querySelectorAll("#repetitions input[type=radio]")];
    const next = choices[choices.findIndex((choice) => choice.checked) + by];
    if (next) next.click();
    return choices.length > 0;
  }
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") return closeExplanations();
    const on = event.target;
    // Whoever types, moves a slider or opens a list needs these keys there. The stops of
    // "repetitions" don't: gradio gives each radio a group of its own, without arrow keys; nor do
    // electrodes, which take space and Enter only.
    const typing = "input:not([type=radio], [type=checkbox]), textarea, select, [contenteditable], [role=listbox]";
    // On another tab they scroll, and move from tab to tab.
    if (on.closest(typing) || on.closest("[role=tab]") || !byId("previous")?.offsetParent) return;
    const idle = !on.closest("button, a, summary, input");
    let taken = false;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      byId(event.key === "ArrowLeft" ? "previous" : "next")?.click();
      taken = true;
    } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      taken = stepRepetitions(event.key === "ArrowUp" ? 1 : -1);
    } else if (event.key === " " && idle) {
      byId("surprise")?.click();
      taken = true;
    }
    if (taken) event.preventDefault();
  }, true);

  // ---- The time cursor follows the slider at once; the map follows when the server has drawn it.
  const sliderOfMoment = () => document.querySelector("#moment input[type=range]");
  function placeCursor() {
    const slider = sliderOfMoment(), plot = byId("butterfly");
    if (!slider || !plot) return;
    const share = (slider.value - slider.min) / (slider.max - slider.min);
    plot.style.setProperty("--moment", share);
  }
  document.addEventListener("input", (event) => {
    if (event.target.closest("#moment")) placeCursor();
  });
  // So do the ends of the window, the shade over the EEG, and the words beside them.
  function placeWindow() {
    const ends = ["start", "end"].map((end) => document.querySelector(`#window-${end} input[type=range]`));
    const says = byId("window-says"), around = says?.closest(".in-time");
    if (!around || !ends.every(Boolean)) return;
    const [from, to] = ends.map(({ value, min, max }) => (value - min) / (max - min));
    around.style.setProperty("--from", Math.min(from, to));
    around.style.setProperty("--to", Math.max(from, to));
    const [start, end] = ends.map((slider) => slider.value.replace("-", "−"));
    const text = from < to ? `${start}–${end} ms` : "nothing";
    if (says.textContent !== text) says.textContent = text;
  }
  document.addEventListener("input", (event) => {
    if (event.target.closest("#window")) placeWindow();
  });
  // A click into the plot moves the slider there.
  document.addEventListener("click", (event) => {
    const plot = event.target.closest("#butterfly"), slider = sliderOfMoment();
    if (!plot || !slider) return;
    const margin = (side) => parseFloat(getComputedStyle(plot).getPropertyValue(`--plot-${side}`));
    const box = plot.getBoundingClientRect();
    const width = box.width - margin("left") - margin("right");
    const share = Math.min(1, Math.max(0, (event.clientX - box.left - margin("left")) / width));
    const { min, max, step } = slider;
    slider.value = +min + Math.round((share * (max - min)) / step) * step;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }, true);

  // ---- With more repetitions the ranks of one and the same picture move before one's eyes.
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const placesOf = (list) =>
    new Map([...list.querySelectorAll("[data-id]")].map((row) => [row.dataset.id, row.offsetTop]));
  let before = null;
  function moveBars() {
    const list = document.querySelector("#bars ol");
    if (!list) return;
    // gradio changes the rows in place, so only what they say tells whether anything moved.
    const places = placesOf(list), seen = list.dataset.seen, order = [...places.keys()].join();
    if (before?.seen === seen && before.order === order) return;
    if (before?.seen === seen && !calm.matches) {
      for (const row of list.querySelectorAll("[data-id]")) {
        const from = before.places.get(row.dataset.id);
        const start = from === undefined
          ? { opacity: 0 }
          : { transform: `translateY(${from - row.offsetTop}px)` };
        row.animate([start, { opacity: 1, transform: "none" }], { duration: 350, easing: "ease" });
      }
    }
    before = { seen, order, places };
  }

  new MutationObserver(() => {
    placeCursor();
    placeWindow();
    moveBars();
    nameAddress();
  }).observe(document.documentElement, {
    childList: true, subtree: true, attributeFilter: ["data-id", "data-seen"],
  });
})();
