-- Common to `quarantine.lua` and `sequences.lua`, each of which follows in a script of its own: parsing a
-- ModelInferRequest, and rejecting one.

local FRAME = 5 -- bytes of gRPC's frame header
local NAME, ID, PARAMETERS = 1, 3, 4 -- field numbers
local TEXT = 2 -- the wire type with a length
local LONGEST_ID = 1024 -- bytes of an id that a rejection repeats
local WHOLE = 262144 -- bytes of a request that are hashed in full; beyond that, only the ends of its fields
local TAIL = 4096 -- bytes at the end of a field
local PIECES, PIECE = 512, 64 -- samples of the rest, and bytes of each
local FIELDS = 4096 -- fields beyond which the rest counts as one

local function varint(text, at)
  local value, scale = 0, 1
  for place = at, math.min(at + 8, #text) do
    local byte = text:byte(place)
    value = value + byte % 128 * scale
    if byte < 128 then
      return value, place + 1
    end
    scale = scale * 128
  end
end

-- The end of a protobuf field, its number and wire type; just the end of the text if it is malformed.
local function field(text, at)
  local key, after = varint(text, at)
  local kind = key and key % 8
  local stop
  if kind == 0 then
    local _, next_at = varint(text, after)
    stop = next_at and next_at - 1
  elseif kind == 1 then
    stop = after + 7
  elseif kind == TEXT then
    local length, begin = varint(text, after)
    stop = length and begin + length - 1
  elseif kind == 5 then
    stop = after + 3
  end
  if not stop or stop > #text then
    return #text
  end
  return stop, math.floor(key / 8), kind
end

local function is_id(number, kind)
  return number == ID and kind == TEXT
end

local function mix(first, second, text, from, to)
  for place = from, to do
    local byte = text:byte(place)
    first = bit.tobit(first * 31 + byte)
    second = bit.tobit(bit.bxor(second, byte) * 65599)
  end
  return first, second
end

-- A hash of a field: `whole` bytes in full, samples of the rest.
local function digest(text, from, to, whole)
  local first, second = mix(7 + to - from, 11, text, from, math.min(to, from + whole - 1))
  if to - from >= whole then
    local middle, tail = from + whole, math.max(from + whole, to - TAIL + 1)
    local stride = math.max(PIECE, math.floor((tail - middle) / PIECES))
    for place = middle, tail - 1, stride do
      first, second = mix(first, second, text, place, math.min(tail - 1, place + PIECE - 1))
    end
    first, second = mix(first, second, text, tail, to)
  end
  return first, second
end

local function is_compressed(message)
  return message:byte(1) ~= 0
end

-- A hash of a ModelInferRequest without its id, which clients may generate anew. The order of parameters does not
-- count, as it is random. A compressed request is hashed as one piece.
local function fingerprint(text)
  local first, second, at, left, count = 0, 0, FRAME + 1, WHOLE, 0
  local named, other_named = 0, 0
  local opaque = is_compressed(text)
  while at <= #text do
    local stop, number, kind = field(text, at)
    count = count + 1
    if opaque or count > FIELDS then
      stop, number = #text, nil
    end
    if not is_id(number, kind) then
      local one, other = digest(text, at, stop, math.min(left, stop - at + 1))
      left = math.max(0, left - (stop - at + 1))
      if number == PARAMETERS then
        named, other_named = bit.tobit(named + one), bit.tobit(other_named + other)
      else
        first, second = bit.tobit(first * 31 + one), bit.tobit(bit.bxor(second, other) * 65599)
      end
    end
    at = stop + 1
  end
  return bit.tohex(bit.tobit(first + named)) .. bit.tohex(bit.tobit(second + other_named))
end

-- A field holding a text.
local function text_field(number, text)
  local length, rest = "", #text
  while rest > 127 do
    length, rest = length .. string.char(128 + rest % 128), math.floor(rest / 128)
  end
  return string.char(8 * number + TEXT) .. length .. string.char(rest) .. text
end

-- The id field of a message; empty if there is none, or it is long.
local function id_of(message)
  local found, at = "", FRAME + 1
  while at <= #message and not is_compressed(message) do
    local stop, number, kind = field(message, at)
    if is_id(number, kind) then
      found = stop - at < LONGEST_ID and message:sub(at, stop) or ""
    end
    at = stop + 1
  end
  return found
end

-- Bytes of a stream's first message, with its frame; nil while unknown.
local function length_of(text)
  if #text >= FRAME then
    local length = 0
    for place = 2, FRAME do
      length = length * 256 + text:byte(place)
    end
    return FRAME + length
  end
end

-- A message that Triton rejects with our reason: the reason takes the place of the model name, which Triton's error
-- repeats. An upstream filter cannot answer any more once the headers have been sent.
local function refusal(message, why)
  local found = text_field(NAME, why) .. id_of(message)
  return string.char(0, 0, 0, math.floor(#found / 256), #found % 256) .. found
end

-- Ends a request with a gRPC status.
local function refuse(handle, status, message)
  handle:respond({
    [":status"] = "200",
    ["content-type"] = "application/grpc",
    ["grpc-status"] = status,
    ["grpc-message"] = message,
  }, nil)
end
