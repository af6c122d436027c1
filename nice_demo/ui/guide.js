// A first visit explains itself: a few steps around the example that the page opens on.
//
// The invitation stands once, for whoever comes without a view in the address; "Show me around" on
// the tab brings the guide back. That it was answered is kept in the browser and nowhere else.
(() => {
  const SEEN = "nice-demo-guide";
  // What each step points at, and what it says. A step whose target isn't on the page is left out.
  const STEPS = [
    [".seen", "Somebody looked at this picture, again and again, while their EEG was recorded. Whose EEG it is, and whether a person's at all, says the mark at the top."],
    [".retrieved", "A decoder compared that EEG with all candidate pictures. These five fit it best, the best first; green is the picture that was seen."],
    [".verdict", "How well did it go? The rank of the picture seen, beside what guessing would give: about the middle of the list."],
    [".overall", "One picture proves little. Over all pictures this is how often the right one comes first; in brackets the 95 % interval, then what guessing gives."],
    [".eeg", "This is what it was read from: the voltage over the head, what carried the decision, and each electrode's signal. Move the slider to see another moment."],
    ["#repetitions", "All this took many looks at the same picture, averaged. Try a single one: what was retrieved changes before your eyes.", "One look"],
  ];
  let card = null, step = -1, steps = [], before = null;

  const answered = () => {
    try {
      return localStorage.getItem(SEEN) === "1";
    } catch {
      return true; // where nothing can be kept, an invitation would come back each time
    }
  };
  const remember = () => {
    try {
      localStorage.setItem(SEEN, "1");
    } catch {}
  };

  function button(text, press, kind = "") {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.className = kind;
    made.addEventListener("click", press);
    return made;
  }

  function show(text, count, ...buttons) {
    if (!card) {
      card = document.createElement("section");
      card.id = "guide";
      card.setAttribute("aria-label", "Guide");
      document.body.append(card);
    }
    const says = document.createElement("p"), row = document.createElement("div");
    says.textContent = text;
    says.id = "guide-says"; // read out with the button that gets the focus
    for (const made of buttons) made.setAttribute("aria-describedby", says.id);
    const number = document.createElement("span");
    number.textContent = count;
    row.append(number, ...buttons);
    card.replaceChildren(says, row);
  }

  function end() {
    remember();
    document.querySelector(".guided")?.classList.remove("guided");
    card?.remove();
    card = null;
    step = -1;
    if (before?.isConnected) before.focus(); // back to where the keyboard was
    before = null;
  }

  function go(to) {
    step = to;
    const [target, text, action] = steps[step];
    document.querySelector(".guided")?.classList.remove("guided");
    const on = document.querySelector(target);
    on?.classList.add("guided");
    on?.scrollIntoView({ block: "nearest" });
    const last = step === steps.length - 1;
    const next = button(last ? "Done" : "Next", () => (last ? end() : go(step + 1)), "next");
    const buttons = last ? [next] : [button("Skip", end), next];
    if (step > 0) buttons.unshift(button("Back", () => go(step - 1)));
    if (action) {
      const press = () => document.querySelector("#repetitions input[type=radio]")?.click();
      buttons.splice(-1, 0, button(action, press));
    }
    show(text, `${step + 1} of ${steps.length}`, ...buttons);
    next.focus({ preventScroll: true });
  }

  function start() {
    before = document.activeElement;
    document.querySelector("#tabs button[role=tab]")?.click();
    steps = STEPS.filter(([target]) => document.querySelector(target));
    if (steps.length) go(0);
  }

  function invite() {
    const hint = "First time here? A few steps show what you see.";
    const later = button("No, thanks", end), begin = button("Show me around", start, "next");
    show(hint, "", later, begin);
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("#show-around")) start();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && card) end();
  });

  // The invitation waits for the first result, so that there is something to be shown.
  const asksForAView = [...new URLSearchParams(location.search).keys()].some((name) => !name.startsWith("__"));
  if (!answered() && !asksForAView) {
    const watch = new MutationObserver(() => {
      if (!document.querySelector(".overall")) return;
      watch.disconnect();
      invite();
    });
    watch.observe(document.documentElement, { childList: true, subtree: true });
  }
})();
