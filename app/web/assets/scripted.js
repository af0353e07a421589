// What only scripts can do is shown where they run.

document.documentElement.classList.add("scripted");
