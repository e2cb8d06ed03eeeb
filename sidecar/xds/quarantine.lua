-- Runs in each worker of Envoy, once for each attempt of each request (an upstream filter; decision 34).
--
-- A request may be sent freely twice. One that was with two instances when they went down is a suspect:
-- before it is sent again, the control plane tries it, alone, on one of these two. All workers learn from
-- the metadata of the routes which `suspects` to look out for, by their fingerprints, and how often
-- (`num_retries`) a request is sent again that was answered with an error.

local FREE = 2 -- instances that may go down before anybody is asked
local PLANE = "@PLANE@" -- the cluster of the control plane, in Envoy's bootstrap
local UNARY = "/inference.GRPCInferenceService/ModelInfer"
local TRIED = "x-triton-sidecar-tried" -- all instances so far, this one last
local OWN = "triton-sidecar" -- in the request's metadata, which its attempts share
local PATIENCE = 600000 -- ms for the control plane's answer; the client's deadline comes first
local PUBLISHED = 5000 -- ms after which what a worker saw itself has come back with the routes
local REPEATED = 1000 -- ms for which a refusal is repeated without asking
local WHOLE = 32768 -- bytes of a field of which none is left out
local PIECES, PIECE = 256, 64 -- of a longer field besides

local seen = {} -- what this worker knows of suspects that may not be in the routes yet, or was told

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

-- Where a field of protobuf's wire format ends, and its number; the end of the text where it is none.
local function field(text, at)
  local key, after = varint(text, at)
  local kind = key and key % 8
  local stop
  if kind == 0 then
    local _, next_at = varint(text, after)
    stop = next_at and next_at - 1
  elseif kind == 1 then
    stop = after + 7
  elseif kind == 2 then
    local length, begin = varint(text, after)
    stop = length and begin + length - 1
  elseif kind == 5 then
    stop = after + 3
  end
  return math.min(stop or #text, #text), key and math.floor(key / 8)
end

local function mix(first, second, text, from, to)
  for place = from, to do
    local byte = text:byte(place)
    first = bit.tobit(first * 31 + byte)
    second = bit.tobit(bit.bxor(second, byte) * 65599)
  end
  return first, second
end

-- Of everything in a ModelInferRequest but its id, which clients may draw anew; of long tensors samples.
local function fingerprint(text)
  local first, second, at = 7, 11, 6 -- after the frame's five bytes
  while at <= #text do
    local stop, number = field(text, at)
    if number ~= 3 then
      local length = stop - at + 1
      first = bit.tobit(first + length)
      first, second = mix(first, second, text, at, math.min(stop, at + WHOLE - 1))
      if length > WHOLE then
        local stride = math.max(PIECE, math.floor((length - WHOLE) / PIECES))
        for place = at + WHOLE, stop, stride do
          first, second = mix(first, second, text, place, math.min(stop, place + PIECE - 1))
        end
      end
    end
    at = stop + 1
  end
  return bit.tohex(first) .. bit.tohex(second)
end

local FAILED_PRECONDITION, UNAVAILABLE = "9", "14"

local function refuse(handle, status, message)
  handle:respond({
    [":status"] = "200",
    ["content-type"] = "application/grpc",
    ["grpc-status"] = status,
    ["grpc-message"] = message,
  }, nil)
end

-- Waits for the control plane's word, and returns if the request may go on.
local function ask(handle, body, print, hosts)
  local question = {}
  for name, value in pairs(handle:headers()) do
    if name:sub(1, 1) ~= ":" then
      question[name] = value
    end
  end
  question[":method"], question[":authority"] = "POST", PLANE
  question[":path"] = "/sidecar.v1.QuarantineService/Try"
  question["x-quarantine-print"], question["x-quarantine-hosts"] = print, hosts
  local done, answer = pcall(handle.httpCall, handle, PLANE, question, body, PATIENCE)
  local word = done and answer["x-quarantine"]
  if word == "go" then
    seen[print] = nil
  elseif word == "refused" then
    local why = answer["x-quarantine-why"]
    seen[print] = { hosts = hosts, why = why, until_ms = handle:timestamp() + REPEATED }
    refuse(handle, FAILED_PRECONDITION, why)
  else
    local found = done and answer[":status"] .. " " .. (answer["grpc-message"] or "") or answer
    handle:logWarn("quarantine: " .. print .. " is not sent again: control plane: " .. found)
    refuse(handle, UNAVAILABLE, "two instances went down with this request: it is not sent again")
  end
end

local function forget(now)
  for print, found in pairs(seen) do
    if found.until_ms < now then
      seen[print] = nil
    end
  end
end

-- The instances on which earlier attempts ended without an answer.
local function took_along(headers, attempt, answered)
  local found, known = {}, {}
  for place = 1, attempt - 1 do
    local host = headers:getAtIndex(TRIED, place - 1)
    if not known[host] and not answered:find("," .. place .. ",", 1, true) then
      found[#found + 1], known[host] = host, true
    end
  end
  return found
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = headers:getNumValues(TRIED)
  local known = handle:metadata():get("suspects")
  local died = {}
  if attempt > 1 then
    local shared = handle:streamInfo():dynamicMetadata()
    died = took_along(headers, attempt, (shared:get(OWN) or {}).answered or "")
    shared:set(OWN, "attempt", attempt)
  end
  if #died < FREE and (attempt > 1 or not known and not next(seen)) then
    return
  end
  if headers:get(":path") ~= UNARY then
    if #died >= FREE then
      refuse(handle, UNAVAILABLE, "two instances went down with this request: it is not sent again")
    end
    return
  end
  local now = handle:timestamp()
  forget(now)
  local buffer = handle:body(true)
  local text = buffer:length() > 0 and buffer:getBytes(0, buffer:length()) or ""
  local print = fingerprint(text)
  local own = seen[print]
  if #died >= FREE then
    local hosts = table.concat(died, ",", 1, FREE)
    seen[print] = { hosts = hosts, until_ms = now + PUBLISHED }
    ask(handle, text, print, hosts)
  elseif own and own.why then
    refuse(handle, FAILED_PRECONDITION, own.why)
  elseif own or known and known[print] then
    ask(handle, text, print, own and own.hosts or "")
  end
end

function envoy_on_response(handle)
  local status = handle:headers():get("grpc-status")
  if status and status ~= "0" then
    local shared = handle:streamInfo():dynamicMetadata()
    local own = shared:get(OWN) or {}
    local attempt = own.attempt or 1
    shared:set(OWN, "answered", (own.answered or ",") .. attempt .. ",")
    if attempt > (handle:metadata():get("num_retries") or 0) then
      -- To Envoy: not to be sent again. It is removed before the client sees it.
      handle:headers():add("x-envoy-ratelimited", "true")
    end
  end
end
