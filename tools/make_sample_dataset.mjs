// Draws data/sample.zip, the small labelled set that the notebooks and CI run on, and its contact sheet.
// Faces: Open Peeps by Pablo Stanley (CC0 1.0). A fixed seed: the same packages give the same bytes.
//   cd tools && npm install && npm run sample
import { writeFileSync } from 'node:fs';
import { createAvatar } from '@dicebear/core';
import * as openPeeps from '@dicebear/open-peeps';
import { Resvg } from '@resvg/resvg-js';
import { strToU8, zipSync } from 'fflate';
import sharp from 'sharp';

const SEED = 20240229;
const SIZE = 112; // pixels a side
const JPEG_QUALITY = 86;
const COUNT = { train: 100, val: 20, test: 20 }; // pictures a class
// Bits of 240 by which any two pictures of different splits must differ. Measured here: strangers differ by 84
// (median), one drawing merely turned, scaled and shifted again by 52. The nearest pairs accepted at 56 differ to
// the eye in hair, skin, glasses or tilt; at 44 some were one face twice, its hair out of the picture.
const MIN_DISTANCE = 56;

// The artist named the faces; the class is what their brows, eyes and mouth show.
const CLASSES = {
  anger: {
    faces: ['rage', 'veryAngry', 'angryWithFang'],
    why: 'brows pulled down to the nose, mouth roaring, turned down or baring a tooth',
  },
  contempt: {
    faces: ['contempt', 'suspicious'],
    why: 'one-sided: lids lowered over a tight half-smile, or one brow up and a mouth corner drawn aside',
  },
  disgust: {
    faces: ['concerned', 'old'],
    why: 'nothing is drawn as disgust; nearest are the upper lip curled off the teeth and the deep nose-to-mouth fold',
  },
  fear: {
    faces: ['fear', 'concernedFear', 'hectic'],
    why: 'staring eyes or a wince under raised brows, mouth stretched, open or with clenched teeth',
  },
  happy: {
    faces: ['smile', 'smileBig', 'smileLOL', 'smileTeethGap', 'calm'],
    why: 'mouth corners up; `calm`, for all its name, smiles with its eyes too',
  },
  neutral: {
    faces: ['blank', 'serious', 'eyesClosed'],
    why: 'level brows, level or small mouth, nothing raised or drawn together',
  },
  sad: {
    faces: ['solemn', 'tired'],
    why: 'inner ends of the brows up, lids heavy, mouth turned down or flat',
  },
  surprise: {
    faces: ['awe', 'explaining'],
    why: 'brows high above round open eyes, and in one the jaw dropped',
  },
  uncertain: {
    faces: ['cheeky', 'driven', 'cute'],
    why: 'mixed signals: a smile under uneven or lowered brows, or pursed lips under half-shut eyes',
  },
};
// Left out: cyclops and monster (not human), lovingGrin1 and 2 (hearts for eyes), eatingHappy (chewing).

// No hair style is in two splits; look-alikes (the three bald heads, the flat tops, the twists) stay together.
// Left out: bear, and what covers a brow of some face: afro, bangs2, dreads1, dreads2, longAfro, longBangs,
// longCurly, mediumBangs, mediumBangs3, mediumStraight.
const HEADS = {
  train: ['bun', 'bun2', 'buns', 'cornrows', 'cornrows2', 'grayBun', 'grayMedium', 'hatHip', 'long', 'medium2',
    'medium3', 'mohawk', 'mohawk2', 'noHair1', 'noHair2', 'noHair3', 'pomp', 'shaved1', 'shaved2',
    'short1', 'short2', 'short3', 'short5'],
  val: ['bantuKnots', 'flatTop', 'flatTopLong', 'grayShort', 'hatBeanie', 'mediumBangs2', 'turban'],
  test: ['bangs', 'hijab', 'medium1', 'shaved3', 'short4', 'twists', 'twists2'],
};
const BEARDS = ['chin']; // every other beard or moustache lies over the mouth
const GLASSES = ['glasses2']; // thin wire: brows show through; the other frames cover them
const NO_GLASSES = ['rage', 'fear', 'hectic', 'awe']; // their round eyes would tangle with the rims
const SKINS = ['ffdbb4', 'edb98a', 'd08b5b', 'ae5d29', '7d5a46']; // the last a shade lighter, so that brows show
const HAIR_COLOURS = ['e8e1e1', 'ecdcbf', 'd6b370', 'f59797', 'b58143', 'a55728', '724133', 'c93305'];
const CLOTH_COLOURS = ['e78276', 'ffcf77', 'fdea6b', '78e185', '9ddadb', '8fa7df', 'e279c7', 'f4f1ea'];
// No background is in two splits either: some hair hardly shows in the crop.
const BACKGROUNDS = {
  train: ['f6f1e7', 'dbe7c9', 'bcd8e8', 'f3c9c0', 'd9cbe8', 'ffe3a3', '9fb4cc', '5f7470', 'c7a98b'],
  val: ['e5e5e5', 'a8c5b5', '8f86ad', 'f0c48a'],
  test: ['cfe8e0', 'c9a0a6', '7f8fa6', 'fff6b8'],
};

/** mulberry32: a seeded stream of numbers in [0, 1), the same on every machine. */
function seededRandom(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
const random = seededRandom(SEED);
const pick = (list) => list[Math.floor(random() * list.length)];
const between = (low, high) => low + random() * (high - low);
const chance = (probability) => random() < probability;

/** One picture as SVG: the artist's 704-unit bust, turned, scaled and cropped to brows, eyes, mouth and chin. */
function drawFace(face, head, background) {
  const bust = createAvatar(openPeeps, {
    size: 704,
    face: [face],
    head: [head],
    skinColor: [pick(SKINS)],
    headContrastColor: [pick(HAIR_COLOURS)],
    clothingColor: [pick(CLOTH_COLOURS)],
    facialHair: BEARDS,
    facialHairProbability: chance(0.15) ? 100 : 0,
    accessories: GLASSES,
    accessoriesProbability: !NO_GLASSES.includes(face) && chance(0.15) ? 100 : 0,
    maskProbability: 0,
  });
  const scale = SIZE / between(385, 425); // 166–183% of the whole bust
  const [x, y] = [between(426, 446), between(388, 404)]; // the middle of the face, in the bust's units
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${SIZE} ${SIZE}">
    <rect width="${SIZE}" height="${SIZE}" fill="#${background}"/>
    <g transform="translate(${SIZE / 2} ${SIZE / 2}) rotate(${between(-8, 8)}) scale(${scale}) translate(${-x} ${-y})">
    ${bust}</g></svg>`;
}

const render = (svg, width) => new Resvg(svg, { fitTo: { mode: 'width', value: width } }).render();

function toJpeg(svg) {
  const { pixels, width, height } = render(svg, SIZE);
  return sharp(pixels, { raw: { width, height, channels: 4 } })
    .removeAlpha()
    .jpeg({ quality: JPEG_QUALITY, mozjpeg: true })
    .toBuffer();
}

/** Difference hash, 240 bits: is a block (a 16th of the side) over 2 grey levels darker than its right neighbour? */
async function dHash(encoded) {
  const { data, info } = await sharp(encoded).raw().toBuffer({ resolveWithObject: true });
  const grey = Array.from({ length: 16 }, () => new Float64Array(16)); // block means
  const block = SIZE / 16;
  for (let y = 0; y < SIZE; y++) {
    for (let x = 0; x < SIZE; x++) {
      const i = info.channels * (y * SIZE + x);
      const level = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
      grey[Math.floor(y / block)][Math.floor(x / block)] += level / block ** 2;
    }
  }
  return grey.flatMap((row) => Array.from({ length: 15 }, (_, x) => row[x + 1] - row[x] > 2));
}
const distance = (a, b) => a.reduce((sum, bit, i) => sum + (bit !== b[i]), 0);

/** Ten training pictures of each class, one class a row, as PNG. */
function contactSheet() {
  const [thumb, columns, margin] = [76, 10, 100];
  const rows = Object.keys(CLASSES).map((name, row) => {
    const faces = drawn.filter((d) => d.split === 'train' && d.name === name);
    const images = Array.from({ length: columns }, (_, column) => {
      const place = `x="${margin + column * thumb}" y="${row * thumb}" width="${thumb - 4}" height="${thumb - 4}"`;
      return faces[7 * column].svg.replace('<svg', `<svg ${place}`); // 7: meets every expression in turn
    });
    const label = `<text x="8" y="${row * thumb + thumb / 2}" font-family="sans-serif" font-size="17">${name}</text>`;
    return label + images.join('');
  });
  const [width, height] = [margin + columns * thumb, rows.length * thumb - 4];
  return render(
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}">
    <rect width="${width}" height="${height}" fill="white"/>${rows.join('')}</svg>`, width).asPng();
}

const readme = `Sample faces for the emotion classifier: train/, val/ and test/, nine classes each.

Drawn from "Open Peeps" by Pablo Stanley (https://www.openpeeps.com/), licence CC0 1.0
(https://creativecommons.org/publicdomain/zero/1.0/), through DiceBear (https://www.dicebear.com/).
The pictures are CC0 1.0 too. They are drawings: good for trying the notebooks, not for judging a classifier of photos.
`;

const files = { 'README.txt': strToU8(readme) };
const drawn = []; // {split, name, svg, hash}
let redrawn = 0;
for (const split of ['test', 'val', 'train']) {
  for (const [name, { faces }] of Object.entries(CLASSES)) {
    const offset = random() * HEADS[split].length;
    for (let i = 0, refused = 0; i < COUNT[split]; ) {
      // Heads in turn, for rejecting would leave few of the plain ones; after eight refusals any head will do.
      const heads = HEADS[split];
      const head = refused < 8 ? heads[Math.floor(i / faces.length + offset) % heads.length] : pick(heads);
      const svg = drawFace(faces[i % faces.length], head, pick(BACKGROUNDS[split]));
      const encoded = await toJpeg(svg);
      const hash = await dHash(encoded);
      const nearest = Math.min(...drawn.filter((d) => d.split !== split).map((d) => distance(d.hash, hash)));
      if (nearest < MIN_DISTANCE) {
        redrawn++;
        refused++;
        continue;
      }
      i++;
      refused = 0;
      files[`${split}/${name}/${name}_${String(i).padStart(4, '0')}.jpg`] = encoded;
      drawn.push({ split, name, svg, hash });
    }
    console.log(`${split}/${name}: ${COUNT[split]} pictures (${redrawn} near copies redrawn so far)`);
  }
}
const zip = zipSync(files, { level: 0, mtime: new Date(2024, 1, 29) });
const save = (name, bytes) => {
  writeFileSync(new URL(`../data/${name}`, import.meta.url), bytes);
  console.log(`data/${name}: ${(bytes.length / 1e6).toFixed(2)} MB`);
};
save('sample.zip', zip);
save('sample.png', contactSheet());
