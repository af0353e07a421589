// The menu of a row: one element, which opens at the pressed button.

const menu = document.createElement("div");
menu.id = "menu";
menu.role = "menu";
menu.popover = "auto";
document.body.append(menu);

/**
 * @param {HTMLElement} button @param {{label: string, danger?: boolean}[]} actions
 * @param {(index: number) => void} choose
 */
export function openMenu(button, actions, choose) {
  menu.ariaLabel = button.ariaLabel;
  menu.replaceChildren(
    ...actions.map(({ label, danger }, index) => {
      const item = document.createElement("button");
      item.type = "button";
      item.role = "menuitem";
      item.tabIndex = -1;
      item.textContent = label;
      item.classList.toggle("danger", Boolean(danger));
      item.addEventListener("click", () => {
        menu.hidePopover();
        choose(index);
      });
      return item;
    }),
  );
  menu.showPopover();
  place(button);
  menu.firstElementChild.focus();
}

/** Places the menu below the button, or above it if the window has no room below. */
function place(button) {
  const at = button.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.right - menu.offsetWidth, innerWidth - menu.offsetWidth - 8));
  const below = at.bottom + 4;
  const top = below + menu.offsetHeight > innerHeight ? at.top - menu.offsetHeight - 4 : below;
  menu.style.left = `${left}px`;
  menu.style.top = `${Math.max(8, top)}px`;
}

const STEPS = { ArrowDown: 1, ArrowUp: -1 };

menu.addEventListener("keydown", (event) => {
  const items = /** @type {HTMLElement[]} */ ([...menu.children]);
  const now = items.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  let next;
  if (event.key in STEPS) next = (now + STEPS[event.key] + items.length) % items.length;
  else if (event.key === "Home") next = 0;
  else if (event.key === "End") next = items.length - 1;
  else if (event.key === "Tab") menu.hidePopover();
  else if (event.key.length === 1) {
    next = items.findIndex((item) => item.textContent.toLowerCase().startsWith(event.key.toLowerCase()));
  }
  if (next >= 0) {
    event.preventDefault();
    items[next].focus();
  }
});

addEventListener("scroll", () => menu.matches(":popover-open") && menu.hidePopover(), { passive: true });
