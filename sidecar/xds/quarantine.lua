-- Runs in each worker of Envoy, once for each attempt of each request (an upstream filter; decision 34).
--
-- A request may be sent freely until two instances have gone down with it. Then it is a suspect: before it
-- is sent again, the control plane tries it, alone, where nobody is put at risk. All workers learn from the
-- metadata of the routes which `suspects` of the `service` to look out for, by their fingerprints.

local FREE = 2 -- instances that may go down before anybody is asked
local PLANE = "@PLANE@" -- the cluster of the control plane, in Envoy's bootstrap
local UNARY = "@UNARY@"
-- One value for each attempt so far, this one last: the instance, and how many bytes of headers all attempts
-- before had sent and received.
local TRIED = "@TRIED@"
local TURN = "@TURN@" -- which attempt this is, a repetition on one instance left out; nothing for the first
local PATIENCE = 600000 -- ms for the control plane's answer; the client's deadline comes first
local PUBLISHED = 5000 -- ms after which what a worker saw itself has come back with the routes
local REPEATED = 1000 -- ms for which a refusal is repeated that is not in the routes yet
local WHOLE = 262144 -- bytes of a request of which none is left out, but for the ends of its fields
local TAIL = 4096 -- bytes at such an end
local PIECES, PIECE = 512, 64 -- of what is left out
local FIELDS = 4096 -- beyond which the rest is taken for one
local ID, PARAMETERS = 3, 4 -- fields of a ModelInferRequest

local seen = {} -- what this worker knows of suspects, which may not be in the routes yet

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

-- Of a field of which so many bytes are to be left out nowhere; of the others samples.
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

-- Of everything in a ModelInferRequest but its id, which clients may draw anew. The order of parameters does
-- not count, for it is by chance.
local function fingerprint(text)
  local first, second, at, left, count = 0, 0, 6, WHOLE, 0 -- after the frame's five bytes
  local named, other_named = 0, 0
  while at <= #text do
    local stop, number = field(text, at)
    count = count + 1
    if count > FIELDS then
      stop, number = #text, nil
    end
    if number ~= ID then
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

local FAILED_PRECONDITION, UNAVAILABLE = "9", "14"

local function refuse(handle, status, message)
  handle:respond({
    [":status"] = "200",
    ["content-type"] = "application/grpc",
    ["grpc-status"] = status,
    ["grpc-message"] = message,
  }, nil)
end

-- Waits for the control plane's word, and returns if the request may go on. Where there is no control plane,
-- those go on who are not `known` here to have gone down with anything.
local function ask(handle, body, print, hosts, known)
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
  elseif known or word then
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

local function tried(headers, place)
  local host, sent, received = headers:getAtIndex(TRIED, place - 1):match("^(%S+) (%d+) (%d+)$")
  return host, tonumber(sent), tonumber(received)
end

-- The instances that went down with it: it was sent to them, and nothing came back.
local function took_along(headers, attempt)
  local found, known = {}, {}
  local host, sent, received = tried(headers, 1)
  for place = 2, attempt do
    local next_host, sent_since, received_since = tried(headers, place)
    if sent_since > sent and received_since == received and not known[host] then
      found[#found + 1], known[host] = host, true
    end
    host, sent, received = next_host, sent_since, received_since
  end
  return found
end

-- An answer that one instance gave twice counts once, the first time: Envoy avoids the priority that the
-- host has, and while the role moves that is its new one already, where the workers still go by the old one.
local function turn(headers, attempt)
  local known = {}
  for place = 1, attempt do
    local host = tried(headers, place)
    if known[host] then
      return attempt - 1
    end
    known[host] = true
  end
  return attempt
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = headers:getNumValues(TRIED)
  if attempt > 1 then
    headers:replace(TURN, turn(headers, attempt))
  end
  local known = handle:metadata():get("suspects")
  local died = attempt > 1 and took_along(headers, attempt) or {}
  if #died < FREE and (attempt > 1 or not known and not next(seen)) then
    return
  end
  if headers:get(":path") ~= UNARY then
    if #died >= FREE then
      refuse(handle, UNAVAILABLE, "two instances went down with this request: it is not sent again")
    end
    return
  end
  local service = handle:metadata():get("service") or ""
  local now = handle:timestamp()
  forget(now)
  local buffer = handle:body(true)
  local text = buffer:length() > 0 and buffer:getBytes(0, buffer:length()) or ""
  local print = service .. "/" .. fingerprint(text)
  local own = seen[print]
  if #died >= FREE then
    local hosts = table.concat(died, ",", 1, FREE)
    seen[print] = { hosts = hosts, until_ms = now + PUBLISHED }
    ask(handle, text, print, hosts, true)
    return
  end
  local why = known and known[print] or own and own.why
  if why and why ~= "" then
    refuse(handle, FAILED_PRECONDITION, why)
  elseif why or own then
    ask(handle, text, print, own and own.hosts or "", own)
  end
end
