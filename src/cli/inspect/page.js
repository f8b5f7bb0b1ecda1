'use strict';
(() => {
  const map = document.getElementById('treemap');
  if (map) {
    const nodes = [...map.querySelectorAll('.n')];
    const texts = nodes.map(n => n.querySelector('text'));
    const rects = nodes.map(n => ['x', 'y', 'width', 'height'].map(a => +n.getAttribute(a)));
    const parent = i => +nodes[i].dataset.p;
    const isDir = i => nodes[i].classList.contains('d');
    const [, , W, H] = map.getAttribute('viewBox').split(' ').map(Number);
    const still = matchMedia('(prefers-reduced-motion: reduce)');
    const crumbs = document.getElementById('crumbs');
    const where = document.getElementById('where');
    let at = 0, view = [0, 0, W, H], frame = 0;

    const chain = i => i === 0 ? [0] : [...chain(parent(i)), i];
    const path = i => '/' + chain(i).slice(1).map(j => texts[j].textContent).join('/');
    const tell = i => { where.textContent = path(i) + ', ' + nodes[i].dataset.t; };

    // The picture keeps its proportions, so what lies around a directory stays in sight.
    const target = i => {
      const [x, y, w, h] = rects[i];
      const k = Math.max(w / W, h / H);
      return [x + (w - W * k) / 2, y + (h - H * k) / 2, W * k, H * k];
    };
    const show = v => {
      view = v;
      map.setAttribute('viewBox', v.join(' '));
      const k = v[2] / W;
      map.style.fontSize = 11 * k + 'px';
      texts.forEach((t, i) => t.classList.toggle('off', nodes[i].dataset.f / k < 12 || rects[i][2] / k < 26));
    };
    const go = i => {
      at = i;
      nodes.forEach((n, j) => {
        if (j && isDir(j) && parent(j) === at) n.setAttribute('tabindex', '0');
        else n.removeAttribute('tabindex');
      });
      crumbs.replaceChildren(...chain(i).map(j => {
        const button = document.createElement('button');
        button.type = 'button';
        button.textContent = j ? texts[j].textContent : '/';
        button.addEventListener('click', () => go(j));
        return button;
      }));
      tell(i);
      cancelAnimationFrame(frame);
      const from = view, to = target(i), start = performance.now();
      if (still.matches) { show(to); return; }
      const step = now => {
        const s = Math.min(1, (now - start) / 260), e = s * s * (3 - 2 * s);
        show(from.map((a, j) => a + (to[j] - a) * e));
        if (s < 1) frame = requestAnimationFrame(step);
      };
      frame = requestAnimationFrame(step);
    };
    map.addEventListener('click', event => {
      const hit = nodes.indexOf(event.target.closest('.n'));
      if (hit < 0) return;
      let to = hit;
      while (to !== 0 && to !== at && parent(to) !== at) to = parent(to);
      if (to === at || to === 0) go(parent(at));
      else if (isDir(to)) go(to);
      else tell(hit);
    });
    map.addEventListener('pointerover', event => {
      const hit = nodes.indexOf(event.target.closest('.n'));
      if (hit >= 0) tell(hit);
    });
    map.addEventListener('keydown', event => {
      const hit = nodes.indexOf(event.target);
      if ((event.key === 'Enter' || event.key === ' ') && hit >= 0) { event.preventDefault(); go(hit); }
      if (event.key === 'Escape') go(parent(at));
    });
    go(0);
  }
  document.documentElement.dataset.ready = 'yes';
})();
