// Shows the elements that need scripts.

document.documentElement.classList.add("scripted");
