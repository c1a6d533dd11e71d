// WebGL2 in four words: a device, textures, states, programs.

/** Floats of states and weights, or a sentence that says why there are none. */
export class Device {
  /**
   * @param {HTMLCanvasElement|OffscreenCanvas} canvas
   * @param {boolean} half  Whether to take half-precision states even where floats can be had.
   */
  constructor(canvas, half = false) {
    const gl = /** @type {WebGL2RenderingContext|null} */ (canvas.getContext("webgl2", { antialias: false, alpha: false, powerPreference: "high-performance" }));
    if (!gl) throw new Error("This browser has no WebGL2, which the page computes with. Try a recent Firefox, Chrome or Safari.");
    const full = !half && gl.getExtension("EXT_color_buffer_float") !== null;
    if (!full && gl.getExtension("EXT_color_buffer_half_float") === null && gl.getExtension("EXT_color_buffer_float") === null) {
      throw new Error("This GPU cannot draw into textures of floating-point numbers, which the page computes with.");
    }
    this.gl = gl;
    this.half = !full;
    this.stateFormat = full ? gl.RGBA32F : gl.RGBA16F;
    this.attachments = Math.min(gl.getParameter(gl.MAX_DRAW_BUFFERS), gl.getParameter(gl.MAX_COLOR_ATTACHMENTS));
    this.largest = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    this.layers = gl.getParameter(gl.MAX_ARRAY_TEXTURE_LAYERS);
    this.name = rendererName(gl);
    gl.bindVertexArray(gl.createVertexArray()); // the triangle of the vertex shader has no attributes
    gl.disable(gl.DITHER);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    /** @type {Map<string, Program>} By text: worlds of one rule have their programs together. */
    this.programs = new Map();
  }

  /** The program of a fragment shader. @param {string} fragment  Without its head. */
  program(fragment) {
    if (!this.programs.has(fragment)) this.programs.set(fragment, new Program(this, fragment));
    return this.programs.get(fragment);
  }
}

/** @param {WebGL2RenderingContext} gl */
function rendererName(gl) {
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  return String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
}

/** A texture, read by texelFetch. */
export class Texture {
  /**
   * @param {Device} device
   * @param {number} format  Sized internal format: RGBA32F, R32F, RGBA32UI ...
   * @param {number} width
   * @param {number} height
   * @param {number} layers  0: no array.
   */
  constructor(device, format, width, height, layers = 0) {
    const gl = device.gl;
    this.device = device;
    this.format = format;
    this.width = width;
    this.height = height;
    this.layers = layers;
    this.target = layers ? gl.TEXTURE_2D_ARRAY : gl.TEXTURE_2D;
    this.handle = gl.createTexture();
    gl.bindTexture(this.target, this.handle);
    if (layers) gl.texStorage3D(this.target, 1, format, width, height, layers);
    else gl.texStorage2D(this.target, 1, format, width, height);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(this.target, name, gl.NEAREST);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(this.target, name, gl.CLAMP_TO_EDGE);
  }

  /**
   * Replaces whole rows of a layer.
   * @param {Float32Array} values
   * @param {number} layer
   * @param {number} row  The first.
   */
  write(values, layer = 0, row = 0) {
    const gl = this.device.gl;
    const [format, type] = [gl.RGBA, gl.FLOAT];
    const rows = values.length / (4 * this.width);
    gl.bindTexture(this.target, this.handle);
    if (this.layers) gl.texSubImage3D(this.target, 0, 0, row, layer, this.width, rows, 1, format, type, values);
    else gl.texSubImage2D(this.target, 0, 0, row, this.width, rows, format, type, values);
  }

  remove() {
    this.device.gl.deleteTexture(this.handle);
  }
}

/** A framebuffer over some layers of a texture array, or over a texture. */
export class Target {
  /**
   * @param {Texture} texture
   * @param {number} first  Layer.
   * @param {number} count  Layers, one after the other.
   */
  constructor(texture, first = 0, count = 1) {
    const gl = texture.device.gl;
    this.texture = texture;
    this.first = first;
    this.width = texture.width;
    this.height = texture.height;
    this.handle = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.handle);
    for (let i = 0; i < count; i++) {
      const place = gl.COLOR_ATTACHMENT0 + i;
      if (texture.layers) gl.framebufferTextureLayer(gl.FRAMEBUFFER, place, texture.handle, 0, first + i);
      else gl.framebufferTexture2D(gl.FRAMEBUFFER, place, gl.TEXTURE_2D, texture.handle, 0);
    }
    gl.drawBuffers(Array.from({ length: count }, (_, i) => gl.COLOR_ATTACHMENT0 + i));
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) {
      throw new Error("This GPU cannot draw into as many textures as this rule has channels.");
    }
  }

  /**
   * Reads one attachment as floats, four for each texel.
   * @param {number} attachment
   */
  read(attachment) {
    const gl = this.texture.device.gl;
    const values = new Float32Array(this.width * this.height * 4);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.handle);
    gl.readBuffer(gl.COLOR_ATTACHMENT0 + attachment);
    gl.readPixels(0, 0, this.width, this.height, gl.RGBA, gl.FLOAT, values);
    return values;
  }

  remove() {
    this.texture.device.gl.deleteFramebuffer(this.handle);
  }
}

/**
 * A grid of cells with some channels: layers of a texture array, in groups as large as a shader can draw at once.
 * All groups are equally large, so that one shader serves them; the last may have layers that nobody reads.
 */
export class Grid {
  /**
   * @param {Device} device
   * @param {number} quads  Texels of a cell.
   * @param {number} height
   * @param {number} width
   */
  constructor(device, quads, height, width) {
    const groups = Math.ceil(quads / device.attachments);
    this.group = Math.ceil(quads / groups);
    this.texture = new Texture(device, device.stateFormat, width, height, groups * this.group);
    this.targets = Array.from({ length: groups }, (_, i) => new Target(this.texture, i * this.group, this.group));
    this.device = device;
    this.quads = quads;
    this.height = height;
    this.width = width;
    this.clear();
  }

  /** Sets all to zero. */
  clear() {
    const gl = this.device.gl;
    for (const target of this.targets) {
      gl.bindFramebuffer(gl.FRAMEBUFFER, target.handle);
      for (let i = 0; i < this.group; i++) gl.clearBufferfv(gl.COLOR, i, [0, 0, 0, 0]);
    }
  }

  /**
   * Writes [channels, height, width].
   * @param {Float32Array} values
   */
  write(values) {
    const cells = this.height * this.width;
    const channels = values.length / cells;
    const texels = new Float32Array(cells * 4);
    for (let quad = 0; quad < this.quads; quad++) {
      texels.fill(0);
      for (let c = quad * 4; c < Math.min(quad * 4 + 4, channels); c++) {
        for (let i = 0; i < cells; i++) texels[i * 4 + (c & 3)] = values[c * cells + i];
      }
      this.texture.write(texels, quad);
    }
  }

  /**
   * Reads [channels, height, width].
   * @param {number} channels
   */
  read(channels) {
    const cells = this.height * this.width;
    const values = new Float32Array(channels * cells);
    for (let quad = 0; quad * 4 < channels; quad++) {
      const texels = this.targets[Math.floor(quad / this.group)].read(quad % this.group);
      for (let c = quad * 4; c < Math.min(quad * 4 + 4, channels); c++) {
        for (let i = 0; i < cells; i++) values[c * cells + i] = texels[i * 4 + (c & 3)];
      }
    }
    return values;
  }

  remove() {
    this.targets.forEach((target) => target.remove());
    this.texture.remove();
  }
}

const VERTEX = `#version 300 es
void main() {
  gl_Position = vec4(vec2((gl_VertexID << 1) & 2, gl_VertexID & 2) * 2.0 - 1.0, 0.0, 1.0);
}`;

const HEAD = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
precision highp usampler2D;
`;

/** A fragment shader that is run for every cell of a target. */
export class Program {
  /**
   * @param {Device} device
   * @param {string} fragment  Without its head.
   */
  constructor(device, fragment) {
    const gl = device.gl;
    this.gl = gl;
    this.handle = gl.createProgram();
    for (const { kind, text } of [{ kind: gl.VERTEX_SHADER, text: VERTEX }, { kind: gl.FRAGMENT_SHADER, text: HEAD + fragment }]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(this.handle, shader);
      gl.deleteShader(shader);
    }
    gl.linkProgram(this.handle);
    if (!gl.getProgramParameter(this.handle, gl.LINK_STATUS)) {
      const logs = gl.getAttachedShaders(this.handle).map((shader) => gl.getShaderInfoLog(shader));
      throw new Error(`This GPU does not take the shader of this rule: ${[gl.getProgramInfoLog(this.handle), ...logs].join(" ").trim().slice(0, 300)}`);
    }
    /** @type {Map<string, {place: WebGLUniformLocation, type: number, unit: number}>} */
    this.uniforms = new Map();
    let unit = 0;
    for (let i = 0; i < gl.getProgramParameter(this.handle, gl.ACTIVE_UNIFORMS); i++) {
      const { name, type } = gl.getActiveUniform(this.handle, i);
      const sampler = type === gl.SAMPLER_2D || type === gl.SAMPLER_2D_ARRAY || type === gl.UNSIGNED_INT_SAMPLER_2D;
      this.uniforms.set(name, { place: gl.getUniformLocation(this.handle, name), type, unit: sampler ? unit++ : -1 });
    }
  }

  /**
   * Draws.
   * @param {Record<string, any>} values  Of the uniforms: numbers, arrays, textures. Others are ignored.
   * @param {Target|null} target  null: the canvas of the page.
   * @param {[number, number, number, number]} [box]  Left, bottom, width and height of the part that is drawn.
   */
  draw(values, target, box) {
    const gl = this.gl;
    gl.useProgram(this.handle);
    for (const [name, uniform] of this.uniforms) {
      if (values[name] === undefined) throw new Error(`the shader needs a value for ${name}`);
      this.set(uniform, values[name]);
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, target ? target.handle : null);
    gl.viewport(0, 0, target ? target.width : gl.drawingBufferWidth, target ? target.height : gl.drawingBufferHeight);
    if (box) {
      gl.enable(gl.SCISSOR_TEST);
      gl.scissor(...box);
    }
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.disable(gl.SCISSOR_TEST);
  }

  set({ place, type, unit }, value) {
    const gl = this.gl;
    if (unit >= 0) {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(value.target, value.handle);
      gl.uniform1i(place, unit);
    } else if (type === gl.FLOAT) gl.uniform1f(place, value);
    else if (type === gl.FLOAT_VEC2) gl.uniform2fv(place, value);
    else if (type === gl.FLOAT_VEC3) gl.uniform3fv(place, value);
    else if (type === gl.FLOAT_VEC4) gl.uniform4fv(place, value);
    else if (type === gl.INT || type === gl.BOOL) gl.uniform1i(place, Number(value));
    else if (type === gl.INT_VEC2) gl.uniform2iv(place, value);
    else if (type === gl.UNSIGNED_INT) gl.uniform1ui(place, value);
    else if (type === gl.UNSIGNED_INT_VEC2) gl.uniform2uiv(place, value);
    else throw new Error(`no uniforms of type ${type}`);
  }
}
