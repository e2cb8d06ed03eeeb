-- Runs in each Envoy worker, once for each stream that is routed by model, and each request on a route that has aliases
-- (decision 69), in one script with `messages.lua` before it, and before the filter that reads the model's name.
--
-- That filter loses the beginning of a second message that comes together with the end of the first one, so such a
-- beginning is held back until more of it comes.
--
-- The route metadata says by alias which model is meant. Of a protobuf field that is there twice the last one counts, so the
-- model's name follows each message, whatever its size, and nothing in between is touched or held back.

local ALIAS = "model:" -- before a name in the route metadata
local LONGEST = 1020 -- bytes of a name that a policy may have
local HEAD = FRAME + 3 + LONGEST -- bytes in which the name ends
local INVALID_ARGUMENT = "3"

local function four_bytes(value)
  local found = ""
  for _ = 1, 4 do
    found, value = string.char(value % 256) .. found, math.floor(value / 256)
  end
  return found
end

-- The name at the beginning of a framed message, where every known client writes it; empty if it is elsewhere, or longer
-- than any that a policy has. Nil while too little of the message has come.
local function name_in(text, at, length)
  local complete = #text - at + 1 >= math.min(length, HEAD)
  local head = text:sub(at + FRAME, at + math.min(length, HEAD) - 1)
  if head == "" then
    return complete and "" or nil
  elseif text:byte(at) ~= 0 or head:byte(1) ~= 8 * NAME + TEXT then
    return ""
  end
  local size, begin = varint(head, 2)
  if size and begin + size - 1 <= #head then
    return head:sub(begin, begin + size - 1)
  end
  return (complete or (size and size > LONGEST)) and "" or nil
end

-- The messages in a text, of which `left` bytes of a begun one come first, after which `tail` is added; and the same about
-- its end. What is left over is the beginning of a message: one whose name is not complete, or, in the text in which the
-- first message ends (`alone`), one that is not complete.
local function replaced(handle, text, left, tail, alone)
  local out, at = {}, 1
  while at <= #text do
    if left == 0 then
      local length = length_of(text:sub(at, at + FRAME - 1))
      local name = length and name_in(text, at, length)
      if not name or (alone and at > 1 and #text - at + 1 < length) then
        break
      end
      local model = name ~= "" and handle:metadata():get(ALIAS .. name)
      left, tail = length - FRAME, model and text_field(NAME, model) or ""
      out[#out + 1] = text:sub(at, at) .. four_bytes(left + #tail)
      at = at + FRAME
    end
    local part = math.min(left, #text - at + 1)
    out[#out + 1] = text:sub(at, at + part - 1)
    at, left = at + part, left - part
    if left == 0 then
      out[#out + 1], tail = tail, ""
    end
  end
  return table.concat(out), left, tail, text:sub(at)
end

function envoy_on_request(handle)
  local renames = handle:metadata():get("aliases")
  local left, tail, rest, first, none = 0, "", "", true, true
  for piece in handle:bodyChunks() do
    local size, text = piece:length(), nil
    none = false
    if left > size then -- the middle of a large message passes as it is
      left = left - size
    elseif size > 0 then
      text, left, tail, rest = replaced(handle, rest .. piece:getBytes(0, size), left, tail, first)
      first = first and (left > 0 or text == "")
      piece:setBytes(text)
      if not (first or renames or rest ~= "") then
        return
      end
    end
  end
  if none then -- the next filter would hold it forever
    refuse(handle, INVALID_ARGUMENT, "a request that is routed by its model needs a message")
  end
end
