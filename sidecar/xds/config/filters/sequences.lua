-- Runs in each Envoy worker, once for each request with the header of a sequence (decision 57), in one script with
-- `messages.lua` before it.
--
-- A sequence continues only over the connection over which it began, with the same header and routes, on the same
-- instance; one in a stream, only in that stream. Anything else is rejected, as Triton rejects a sequence that it has
-- not seen begin.

local VERSION = 2 -- field number
local OVER = "@CONNECTION@" -- in each request: the connection it came over
local PLACE = "@PLACE@" -- in each response: the instance that sent it
local OWN = "sidecar.sequences" -- the key under which a request keeps what its response needs
local MANY = 65536 -- after this many sequences, those not used since as many others are forgotten
local NAMES = 16777216 -- likewise, after this many bytes of names
local LARGEST = 75497472 -- bytes of a message in a stream
local LONGEST = 1024 -- bytes of a sequence's names, of which Triton takes 128 for the id (decision 38)
local MOST = 65536 -- fields of a request, including its parameters': a worker reads them one by one
local INVALID_ARGUMENT, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = "3", "12", "13", "14"
local ELSEWHERE = "a request must specify the START flag on the first request of the sequence: it did not begin "
local CONNECTION, STREAM = ELSEWHERE .. "over this connection", ELSEWHERE .. "in this stream"
local HEADER = ELSEWHERE .. "with this value of its header"
local SINCE = ELSEWHERE .. "since the traffic policy changed which requests go where"
local COMPRESSED = "a request of a sequence has to come uncompressed"
-- In place of a key, if there are too many bytes or fields.
local TOO_LONG, TOO_MANY = "", "/"
local REFUSED = {
  [TOO_LONG] = "model, version, id and header of a sequence have to be shorter than 1024 bytes together",
  [TOO_MANY] = "a request of a sequence has too many fields",
}
local TOO_LARGE = "a request of a sequence in a stream has to be smaller than 72 MiB"
local ILL = "the instance that has this sequence cannot be used: begin it anew"

-- Where each sequence began, by its key, and how: `over` which connection or stream, with which `header`, and under
-- which version of the policy (`since`). `former` holds those that were not used lately.
local begun, former, count, size = {}, {}, 0, 0

local function forget(key)
  local found = begun[key]
  if found then
    begun[key], count, size = nil, count - 1, size - #key - #found.header
  end
  former[key] = nil
end

local function note(key, found)
  forget(key)
  begun[key], count, size = found, count + 1, size + #key + #found.header
  if count >= MANY or size >= NAMES then
    begun, former, count, size = {}, begun, 0, 0
  end
end

local function look_up(key)
  local found = begun[key] or former[key]
  if found and former[key] then
    note(key, found)
  end
  return found
end

-- As text that metadata accepts.
local function plain(text)
  return (text:gsub("%W", function(byte)
    return ("%%%02x"):format(byte:byte())
  end))
end

local function contents(text, at, stop)
  local _, after = varint(text, at)
  local _, first = varint(text, after)
  return text:sub(first, stop)
end

-- One entry of a map from text to messages, and its number of fields.
local function entry(text)
  local name, value, at, count = "", "", 1, 0
  while at <= #text and count <= MOST do
    count = count + 1
    local stop, number, kind = field(text, at)
    if kind == TEXT and number == 1 then
      name = contents(text, at, stop)
    elseif kind == TEXT and number == 2 then
      value = contents(text, at, stop)
    end
    at = stop + 1
  end
  return name, value, count
end

-- Correlation ids that mean none: nothing, the number 0 and the empty text, as encoded in InferParameter.
local NO_ID = { [""] = true, ["\16\0"] = true, ["\40\0"] = true, ["\26\0"] = true }
local SET = "\8\1" -- a true flag in InferParameter

-- For a framed ModelInferRequest: a key of its sequence, whether it begins and whether it ends; nil if it belongs to
-- none. `header` only counts towards the size of its names.
local function sequence_of(message, service, header)
  local model, version, parameters, at, count = "", "", {}, FRAME + 1, 0
  while at <= #message do
    count = count + 1
    if count > MOST then
      return TOO_MANY
    end
    local stop, number, kind = field(message, at)
    if kind == TEXT and number == NAME then
      model = contents(message, at, stop)
    elseif kind == TEXT and number == VERSION then
      version = contents(message, at, stop)
    elseif kind == TEXT and number == PARAMETERS then
      local name, value, fields = entry(contents(message, at, stop))
      parameters[name], count = value, count + fields
    end
    at = stop + 1
  end
  local id = parameters.sequence_id or ""
  if NO_ID[id] then
    return nil
  elseif #model + #version + #id + #header >= LONGEST then
    return TOO_LONG
  end
  local key = service .. "/" .. plain(model .. "\0" .. version .. "\0" .. id)
  return key, parameters.sequence_start == SET, parameters.sequence_end == SET
end

-- A request without an instance waits for one, if the route says so: it has reached none while connections are refused.
-- One that continues a sequence does not wait, since Envoy would retry it on any instance.
local function wait(handle)
  local attempts = handle:metadata():get("attempts")
  if attempts then
    handle:headers():replace("x-envoy-retry-on", "connect-failure")
    handle:headers():replace("x-envoy-max-retries", attempts)
  end
end

-- Why a request does not continue a sequence as it began; nil if it does.
local function mismatch(found, asked)
  if not found or found.over ~= asked.over then
    return CONNECTION
  elseif found.since ~= asked.since then
    return SINCE
  elseif found.header ~= asked.header then
    return HEADER
  end
end

local function on_unary(handle)
  local buffer = handle:body(true)
  local message = buffer:length() > 0 and buffer:getBytes(0, buffer:length()) or ""
  if #message >= FRAME and is_compressed(message) then
    refuse(handle, UNIMPLEMENTED, COMPRESSED)
    return
  end
  local route, headers, info = handle:metadata(), handle:headers(), handle:streamInfo()
  local name, service = route:get("header"), route:get("service") or "" -- older routes lack some fields
  local header, over = name and headers:get(name) or "", headers:get(OVER)
  headers:remove(OVER)
  local key, starts, ends = sequence_of(message, service, header)
  if not key then
    wait(handle)
    return
  elseif REFUSED[key] then
    refuse(handle, INVALID_ARGUMENT, REFUSED[key])
    return
  end
  local asked = {
    key = key,
    over = over or info:downstreamDirectRemoteAddress(),
    since = route:get("since") or "",
    header = plain(header),
    starts = starts,
  }
  if starts then
    forget(key)
    wait(handle)
  else
    local found, ill, routed = look_up(key), route:get("ill"), info:dynamicMetadata():get("envoy.lb")
    local why = mismatch(found, asked)
    if why then
      refuse(handle, INVALID_ARGUMENT, why)
      return
    elseif ill and (ill[found.host] or routed and ill[found.host .. " " .. routed.model]) then
      refuse(handle, UNAVAILABLE, ILL)
      return
    end
    handle:setUpstreamOverrideHost(found.host, true)
  end
  if starts ~= ends then
    info:dynamicMetadata():set(OWN, "asked", asked)
  end
end

-- A message of a stream, or one in its place that Triton rejects.
local function passed(message, service, stream)
  if is_compressed(message) then
    return refusal(message, COMPRESSED)
  end
  local key, starts, ends = sequence_of(message, service, "")
  if REFUSED[key] then
    return refusal(message, REFUSED[key])
  elseif not key then
    return message
  end
  local found = look_up(key)
  if starts then
    note(key, { over = stream, header = "" })
  elseif not found or found.over ~= stream then
    return refusal(message, STREAM)
  end
  if ends then -- its response is not read
    forget(key)
  end
  return message
end

-- All complete messages at the start of a text, as they may pass; the rest of it, and the length of the rest's message,
-- if known.
local function split(text, service, stream)
  local out, at, wanted = {}, 1, length_of(text)
  while wanted and #text - at + 1 >= wanted do
    out[#out + 1] = passed(text:sub(at, at + wanted - 1), service, stream)
    at = at + wanted
    wanted = length_of(text:sub(at, at + FRAME - 1))
  end
  return out, text:sub(at), wanted
end

-- By the time its first message arrives, a stream has its instance, and all its messages go there.
local function on_stream(handle)
  wait(handle)
  local service, stream = handle:metadata():get("service") or "", {}
  local pieces, size, wanted, skipped = {}, 0, nil, 0
  for piece in handle:bodyChunks() do
    local text = piece:length() > 0 and piece:getBytes(0, piece:length()) or ""
    local jump = math.min(skipped, #text)
    skipped, pieces[#pieces + 1], size = skipped - jump, text:sub(jump + 1), size + #text - jump
    local out = {}
    if not wanted or size >= wanted then
      local rest
      out, rest, wanted = split(table.concat(pieces), service, stream)
      if wanted and wanted > LARGEST then
        out[#out + 1] = refusal("", TOO_LARGE)
        rest, skipped, wanted = "", wanted - #rest, nil
      end
      pieces, size = { rest }, #rest
    end
    piece:setBytes(table.concat(out))
  end
end

function envoy_on_request(handle)
  local treat = handle:headers():get(":path") == "@STREAM@" and on_stream or on_unary
  local done, why = pcall(treat, handle)
  if not done then
    handle:logErr("sequences: " .. tostring(why))
    refuse(handle, INTERNAL, "the sequence cannot be followed: see Envoy's log")
  end
end

-- A failure's status comes with the headers, unless a stream has already got a response.
local function is_well(headers)
  local status = headers:get("grpc-status")
  return not status or status == "0"
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local place = headers:get(PLACE)
  headers:remove(PLACE)
  local kept = handle:streamInfo():dynamicMetadata():get(OWN)
  local asked = kept and kept.asked
  if asked and place and is_well(headers) then
    if asked.starts then
      asked.host = place
      note(asked.key, asked)
    else
      forget(asked.key)
    end
  end
end
