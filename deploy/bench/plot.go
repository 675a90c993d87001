package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// Colours that can be read on white and on black, and by those who tell few
// colours apart.
var colours = []string{"#2a7fc9", "#d9731a", "#2f9e6e", "#b4538f", "#8a8a2e"}

const (
	grey       = "#808080"
	plotWidth  = 760
	plotHeight = 380
	plotLeft   = 80
	plotRight  = 20
	plotTop    = 60
	plotBottom = 50
)

// plot writes the plots of what was measured; those of earlier runs stay where
// nothing new was.
func (r *report) plot(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory for plots: %w", err)
	}
	plots := map[string]string{}
	if len(r.Loads) > 0 {
		plots["ratios"] = r.plotRatios()
		plots["latency"] = r.plotLatency()
	}
	for _, c := range r.Curves {
		if len(c.Series) > 0 {
			plots[c.Name] = r.plotCurve(c)
		}
	}
	for name, text := range plots {
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write a plot: %w", err)
		}
	}
	return nil
}

// svg is a drawing that grows.
type svg struct {
	strings.Builder
	height float64
}

func newSVG(title, below string, height float64) *svg {
	s := &svg{height: height}
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %g" font-family="system-ui, sans-serif" font-size="12" fill="%s">`+"\n", plotWidth, height, grey)
	fmt.Fprintf(s, "<title>%s</title>\n", html.EscapeString(title))
	s.text(plotWidth/2, 18, "middle", 15, title)
	s.text(plotWidth/2, 34, "middle", 10, below)
	return s
}

func (s *svg) text(x, y float64, anchor string, size float64, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%g">%s</text>`+"\n", x, y, anchor, size, html.EscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, colour string, width float64, dash string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g" stroke-dasharray="%s"/>`+"\n", x1, y1, x2, y2, colour, width, dash)
}

func (s *svg) rect(x, y, w, h float64, colour string) {
	fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, w, h, colour)
}

// key is what a colour stands for.
func (s *svg) key(names []string) {
	x := float64(plotLeft)
	for i, n := range names {
		s.rect(x, 43, 10, 10, colours[i%len(colours)])
		s.text(x+14, 52, "start", 11, n)
		x += 30 + 6.5*float64(len([]rune(n)))
	}
}

func (s *svg) end() string { return s.String() + "</svg>\n" }

func (r *report) caption() string { return r.Date + ", " + r.Commit + ", " + r.Machine }

// bars are values of named rows, drawn beside each other.
func (r *report) bars(title string, keys []string, rows []string, values func(row, key int) float64, marks []float64, format string) string {
	const row, bar = 34.0, 12.0
	height := plotTop + row*float64(len(rows)) + plotBottom
	s := newSVG(title, r.caption(), height)
	s.key(keys)
	left := float64(plotLeft + 40)
	top := 0.0
	for i := range rows {
		for k := range keys {
			if v := values(i, k); !math.IsNaN(v) {
				top = max(top, v)
			}
		}
	}
	for _, m := range marks {
		top = max(top, m)
	}
	if top == 0 {
		top = 1
	}
	scale := (plotWidth - left - plotRight - 50) / top
	for _, m := range marks {
		s.line(left+m*scale, plotTop, left+m*scale, height-plotBottom+8, grey, 1, "4 3")
		s.text(left+m*scale, height-plotBottom+22, "middle", 11, fmt.Sprintf("%g", m))
	}
	for i, name := range rows {
		y := plotTop + row*float64(i) + 4
		s.text(left-8, y+bar+3, "end", 12, name)
		for k := range keys {
			v := values(i, k)
			if math.IsNaN(v) {
				continue
			}
			y := y + float64(k)*bar
			s.rect(left, y, v*scale, bar-2, colours[k%len(colours)])
			s.text(left+v*scale+4, y+bar-3, "start", 10, fmt.Sprintf(format, v))
		}
	}
	s.line(left, plotTop, left, height-plotBottom+8, grey, 1, "")
	return s.end()
}

func (r *report) loadNames() (names []string) {
	for _, l := range r.Loads {
		names = append(names, l.Name)
	}
	return names
}

func (r *report) plotRatios() string {
	others := []string{"twin", "standalone"}
	return r.bars("Throughput of a protected guest, against unprotected ones", []string{"of each of two at once (twin)", "of one alone (standalone)"},
		r.loadNames(), func(i, k int) float64 { return r.Loads[i].ratio(others[k]) }, []float64{0.5, 1}, "%.2f")
}

func (r *report) plotLatency() string {
	keys := []string{"twin", "protected"}
	// Transfers and long answers would hide the others.
	var some []*loaded
	var names []string
	for _, l := range r.Loads {
		if l.Unit == "/s" {
			some, names = append(some, l), append(names, l.Name)
		}
	}
	return r.bars("Median wait for an answer, ms", keys, names, func(i, k int) float64 {
		s := some[i].P50[keys[k]]
		if s.Samples == 0 {
			return math.NaN()
		}
		return s.Median
	}, nil, "%.3g")
}

// axis maps values to places.
type axis struct {
	low, high  float64
	log        bool
	from, size float64
}

func (a axis) at(v float64) float64 {
	if a.log {
		return a.from + a.size*(math.Log10(v)-math.Log10(a.low))/(math.Log10(a.high)-math.Log10(a.low))
	}
	return a.from + a.size*(v-a.low)/(a.high-a.low)
}

// ticks are round values on the axis.
func (a axis) ticks() (t []float64) {
	if a.log {
		for p := math.Floor(math.Log10(a.low)); p <= math.Ceil(math.Log10(a.high)); p++ {
			for _, m := range []float64{1, 2, 5} {
				v := m * math.Pow(10, p)
				if v >= a.low*0.999 && v <= a.high*1.001 && (m == 1 || a.high/a.low < 200) {
					t = append(t, v)
				}
			}
		}
		return t
	}
	step := math.Pow(10, math.Floor(math.Log10(a.high-a.low)))
	for (a.high-a.low)/step < 4 {
		step /= 2
	}
	for v := math.Ceil(a.low/step) * step; v <= a.high*1.0001; v += step {
		t = append(t, v)
	}
	return t
}

func (r *report) plotCurve(c *curve) string {
	var names []string
	lowX, highX, lowY, highY := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, l := range c.Series {
		names = append(names, l.Name)
		for _, p := range l.Points {
			lowX, highX = min(lowX, p[0]), max(highX, p[0])
			if p[1] > 0 {
				lowY = min(lowY, p[1])
			}
			highY = max(highY, p[1])
		}
	}
	if highX <= lowX {
		highX = lowX + 1
	}
	x := axis{lowX, highX, c.Log && lowX > 0, plotLeft, plotWidth - plotLeft - plotRight}
	y := axis{0, max(highY*1.05, 1e-9), false, plotHeight - plotBottom, -(plotHeight - plotTop - plotBottom)}
	if c.Log && lowY > 0 && highY > lowY {
		y.low, y.log = lowY*0.7, true
		y.high = highY * 1.4
	}
	s := newSVG(c.Y+" by "+c.X, r.caption(), plotHeight)
	s.key(names)
	for _, t := range x.ticks() {
		s.line(x.at(t), plotTop, x.at(t), plotHeight-plotBottom, grey, 0.3, "")
		s.text(x.at(t), plotHeight-plotBottom+16, "middle", 11, fmt.Sprintf("%g", t))
	}
	for _, t := range y.ticks() {
		s.line(plotLeft, y.at(t), plotWidth-plotRight, y.at(t), grey, 0.3, "")
		s.text(plotLeft-6, y.at(t)+4, "end", 11, fmt.Sprintf("%.4g", t))
	}
	s.line(plotLeft, plotTop, plotLeft, plotHeight-plotBottom, grey, 1, "")
	s.line(plotLeft, plotHeight-plotBottom, plotWidth-plotRight, plotHeight-plotBottom, grey, 1, "")
	s.text(plotLeft+x.size/2, plotHeight-12, "middle", 12, c.X)
	for i, l := range c.Series {
		colour := colours[i%len(colours)]
		var path strings.Builder
		for _, p := range l.Points {
			if y.log && p[1] <= 0 {
				continue
			}
			fmt.Fprintf(&path, "%.1f,%.1f ", x.at(p[0]), y.at(p[1]))
			fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x.at(p[0]), y.at(p[1]), colour)
		}
		fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.TrimSpace(path.String()), colour)
	}
	return s.end()
}
