// Plays mono samples as they come. Messages in: {samples}, {end: true}, {stop: true}. Messages out: {played, underruns, done}.
"use strict";

const PREROLL_S = 0.15; // collected before playing begins, and again after an underrun
const FADE_S = 0.005; // a cut at a loud sample is a click
const REPORT_S = 0.05; // between two reports: words are highlighted by them

class SpeechPlayer extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.offset = 0; // into the first block of the queue
    this.waiting = 0; // samples in the queue
    this.playing = false;
    this.ended = false; // nothing more comes
    this.fade = null; // samples left of the fade-out, once asked to stop
    this.played = 0;
    this.underruns = 0;
    this.unreported = 0;
    this.port.onmessage = ({ data }) => {
      if (data.samples) {
        this.queue.push(data.samples);
        this.waiting += data.samples.length;
      } else if (data.end) this.ended = true;
      else if (data.stop) this.fade = Math.round(FADE_S * sampleRate);
    };
  }

  process(_inputs, [[output]]) {
    if (!this.playing) {
      this.playing = this.waiting >= PREROLL_S * sampleRate || (this.ended && this.waiting > 0);
      if (!this.playing) return this.ended || this.fade !== null ? this.report(true) : true;
    }
    let filled = 0;
    while (filled < output.length && this.queue.length > 0) {
      const block = this.queue[0];
      const count = Math.min(output.length - filled, block.length - this.offset);
      output.set(block.subarray(this.offset, this.offset + count), filled);
      filled += count;
      this.offset += count;
      if (this.offset === block.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.waiting -= filled;
    this.played += filled;
    if (this.fade !== null) return this.fadeOut(output);
    if (filled < output.length) {
      this.playing = false;
      if (this.ended) return this.report(true);
      this.underruns += 1;
    }
    this.unreported += output.length;
    if (this.unreported >= REPORT_S * sampleRate) this.report(false);
    return true;
  }

  fadeOut(output) {
    const length = FADE_S * sampleRate;
    for (let i = 0; i < output.length; i++) output[i] *= Math.max(0, this.fade-- / length);
    return this.fade > 0 ? true : this.report(true);
  }

  // Returns what process returns: whether to go on.
  report(done) {
    this.unreported = 0;
    this.port.postMessage({ played: this.played, underruns: this.underruns, done });
    return !done;
  }
}

registerProcessor("speech-player", SpeechPlayer);
