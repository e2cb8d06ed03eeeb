-- Runs in each Envoy worker, once for each attempt of each request (an upstream filter; decision 34).
--
-- A request may be sent freely until two instances have crashed with it, or one has twice. Then it is a suspect: before it
-- is retried, the control plane tries it, alone, where it puts nothing at risk. All workers learn from the
-- route metadata which `suspects` of the `service` to hold back, by their fingerprints.

local FREE = 2 -- crashes before the control plane is asked
local PLANE = "@PLANE@" -- the control plane's cluster in Envoy's bootstrap
local STREAM, UNARY = "@STREAM@", "@UNARY@"
-- One value per attempt so far, this one last: the instance, and the bytes of headers that all earlier attempts sent
-- and received.
local TRIED = "@TRIED@"
local TURN = "@TURN@" -- the number of the attempt, without a repetition on one instance; absent in the first
local NUMBER = "@NUMBER@" -- the number under which the first message of a stream is kept
local REFUSING_HOST = "@REFUSING_HOST@ " -- the host for requests that no instance can take (decision 61)
local PATIENCE = 600000 -- ms to wait for the control plane; the client's deadline comes first
local PUBLISHED = 5000 -- ms after which what a worker saw itself has come back with the routes
local REPEATED = 1000 -- ms for which a refusal is repeated before the routes have it
local LARGEST = 1048576 -- bytes of a stream's first message; a longer one is not examined
local KEPT, KEPT_MS = 16777216, 60000 -- bytes of kept first messages, and for how long
local AGAIN = "two instances went down with this request: it is not sent again"

local seen = {} -- the suspects this worker knows, which may not be in the routes yet
-- First messages of streams that one instance lost, by number; the order in which they came; and how many bytes more
-- may be kept.
local kept, numbers, room = {}, 0, KEPT
local order, oldest, newest = {}, 1, 0

local FAILED_PRECONDITION, UNAVAILABLE = "9", "14"

-- Waits for the control plane's decision, and returns if the request may be retried. Without a control plane only
-- requests pass that are not `known` here to have crashed an instance.
local function ask(handle, body, print, hosts, known)
  local request = {}
  for name, value in pairs(handle:headers()) do
    if name:sub(1, 1) ~= ":" then
      request[name] = value
    end
  end
  request[":method"], request[":authority"] = "POST", PLANE
  request[":path"] = "/sidecar.v1.QuarantineService/Try"
  request["x-quarantine-print"], request["x-quarantine-hosts"] = print, hosts
  request["x-quarantine-path"] = handle:headers():get(":path")
  local done, answer = pcall(handle.httpCall, handle, PLANE, request, body, PATIENCE)
  local decision = done and answer["x-quarantine"]
  if decision == "go" then
    seen[print] = nil
  elseif decision == "told" then
    seen[print] = nil
    refuse(handle, answer["x-quarantine-status"], answer["x-quarantine-why"])
  elseif decision == "refused" then
    local why = answer["x-quarantine-why"]
    seen[print] = { hosts = hosts, why = why, until_ms = handle:timestamp() + REPEATED }
    refuse(handle, FAILED_PRECONDITION, why)
  elseif known or decision then
    local found = done and answer[":status"] .. " " .. (answer["grpc-message"] or "") or answer
    handle:logWarn("quarantine: " .. print .. " is not sent again: control plane: " .. found)
    refuse(handle, UNAVAILABLE, AGAIN)
  end
end

-- Holds a request that crashed two instances until the control plane has decided.
local function hold(handle, body, print, crashed, now)
  local hosts = table.concat(crashed, ",", 1, math.min(#crashed, FREE))
  seen[print] = { hosts = hosts, until_ms = now + PUBLISHED }
  ask(handle, body, print, hosts, true)
end

local function drop(number)
  if kept[number] then
    room = room + #kept[number].message
    kept[number] = nil
  end
end

local function forget(now)
  for print, found in pairs(seen) do
    if found.until_ms < now then
      seen[print] = nil
    end
  end
  while oldest <= newest do
    local found = kept[order[oldest]]
    if found and room >= 0 and found.until_ms >= now then
      break
    end
    drop(order[oldest])
    order[oldest], oldest = nil, oldest + 1
  end
end

-- Whether a request is a suspect, and why it is refused if that is proven.
local function look_up(known, print)
  local told, own = known and known[print], seen[print]
  return (told or own) ~= nil, told and told ~= "" and told or own and own.why
end

local function tried(headers, place)
  local host, sent, received = headers:getAtIndex(TRIED, place - 1):match("^(%S+) (%d+) (%d+)$")
  return host, tonumber(sent), tonumber(received)
end

-- The instances that crashed with it, and how many crashes: it was sent to them, and nothing came back.
local function crashed_with(headers, attempt)
  local found, known, crashes = {}, {}, 0
  local host, sent, received = tried(headers, 1)
  for place = 2, attempt do
    local next_host, sent_since, received_since = tried(headers, place)
    if sent_since > sent and received_since == received then
      crashes = crashes + 1
      if not known[host] then
        found[#found + 1], known[host] = host, true
      end
    end
    host, sent, received = next_host, sent_since, received_since
  end
  return found, crashes
end

-- Two answers of one instance count once, as the first: Envoy avoids the priority of that host, and while the role moves
-- that is already its new one, though the workers still use the old one.
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

-- The first message of a stream with its frame, what came with it, and the chunk in which it ended; nil if it is too
-- large. The headers are sent in the meantime, but no part of the message.
local function first_message(chunks)
  local pieces, size, length = {}, 0, nil
  for piece in chunks do
    pieces[#pieces + 1] = piece:getBytes(0, piece:length())
    size = size + piece:length()
    length = length or length_of(table.concat(pieces))
    if length and (length > LARGEST or size >= length) then
      local text = table.concat(pieces)
      if length > LARGEST then
        piece:setBytes(text)
        return
      end
      return text:sub(1, length), text:sub(length + 1), piece
    end
    piece:setBytes("")
  end
end

-- Keeps the first message of a stream for the next attempt, as long as it is the only one.
local function keep(chunks, number, message, now)
  kept[number] = { message = message, until_ms = now + KEPT_MS }
  room, newest = room - #message, newest + 1
  order[newest] = number
  forget(now)
  for piece in chunks do
    if piece:length() > 0 then
      drop(number)
    end
  end
end

-- A stream is identified by its first message. If that crashed two instances, it waits like other requests; a known
-- suspect that is opened again does not reach a third. Of several messages any could be the cause.
local function on_stream(handle, headers, attempt, crashed, crashes, known, service)
  local now = handle:timestamp()
  forget(now)
  if crashes >= FREE then
    local found = kept[tonumber(headers:get(NUMBER) or "")]
    if found and #crashed <= FREE then -- a third crash must be due to a later message
      local message = found.message
      hold(handle, message, service .. "/stream-" .. fingerprint(message), crashed, now)
    else
      refuse(handle, UNAVAILABLE, AGAIN)
    end
    return
  end
  local number
  if attempt > 1 then
    numbers = numbers + 1
    number = numbers
    headers:replace(NUMBER, tostring(number)) -- before they are sent
  end
  local chunks = handle:bodyChunks()
  local message, rest, piece = first_message(chunks)
  if message then
    local suspect, why = look_up(known, service .. "/stream-" .. fingerprint(message))
    piece:setBytes((suspect and refusal(message, why or AGAIN .. " yet") or message) .. rest)
    if number and not suspect and rest == "" then
      keep(chunks, number, message, now)
    end
  end
end

local function on_refusing_host(headers, attempt)
  return headers:getAtIndex(TRIED, attempt - 1):sub(1, #REFUSING_HOST) == REFUSING_HOST
end

-- An attempt on the refusing host does not count: there may be twenty of them.
local function drop_last_attempt(headers, attempt)
  local others = {}
  for place = 1, attempt - 1 do
    others[place] = headers:getAtIndex(TRIED, place - 1)
  end
  headers:remove(TRIED)
  for _, value in ipairs(others) do
    headers:add(TRIED, value)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = headers:getNumValues(TRIED)
  local refused_at_once = on_refusing_host(headers, attempt)
  local known = handle:metadata():get("suspects")
  local watched = known or next(seen)
  if attempt == 1 and not (watched or refused_at_once) then
    return
  end
  local crashed, crashes = crashed_with(headers, attempt)
  if refused_at_once then
    drop_last_attempt(headers, attempt)
    if crashes < FREE then
      return
    end
  elseif attempt > 1 then
    headers:replace(TURN, turn(headers, attempt))
  end
  local path, service = headers:get(":path"), handle:metadata():get("service") or ""
  if path == STREAM then
    on_stream(handle, headers, attempt, crashed, crashes, known, service)
    return
  elseif crashes < FREE and attempt > 1 then
    return
  elseif path ~= UNARY then
    if crashes >= FREE then
      refuse(handle, UNAVAILABLE, AGAIN)
    end
    return
  end
  local now = handle:timestamp()
  forget(now)
  local buffer = handle:body(true)
  local text = buffer:length() > 0 and buffer:getBytes(0, buffer:length()) or ""
  local print = service .. "/" .. fingerprint(text)
  if crashes >= FREE then
    hold(handle, text, print, crashed, now)
    return
  end
  local suspect, why = look_up(known, print)
  local own = seen[print]
  if why then
    refuse(handle, FAILED_PRECONDITION, why)
  elseif suspect then
    ask(handle, text, print, own and own.hosts or "", own)
  end
end
